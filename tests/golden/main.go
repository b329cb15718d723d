package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// With no argument, prints the golden vectors. With "serve", answers one line for each line read:
//
//	D <hex of a document>      -> "ok <fields>" or "error <hex of the text>"
//	E <fields>                 -> "ok <hex of the document>" or "error <hex of the text>"
//
// where fields are event_id aggregate_id event_type event_version seconds nanos offset_minutes trace_id
// correlation_id tenant_id payload, separated by spaces, texts in hex ("-" if empty).
func main() {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		serve()
		return
	}
	out, err := json.MarshalIndent(vectors(), "", " ")
	check(err)
	fmt.Println(string(out))
}

func serve() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		words := strings.Fields(line)
		var answer string
		if words[0] == "D" {
			answer = decodeAnswer(fromHex(words[1]))
		} else {
			answer = encodeAnswer(parseFields(words[1:]))
		}
		_, err = fmt.Fprintln(out, answer)
		check(err)
		if in.Buffered() == 0 {
			check(out.Flush())
		}
	}
}

func decodeAnswer(document []byte) string {
	e, err := decode(document)
	if err != nil {
		return "error " + toHex(err.Error())
	}
	_, offset := e.Timestamp.Zone()
	return strings.Join([]string{
		"ok", toHex(e.EventID), toHex(e.AggregateID), toHex(e.EventType),
		strconv.FormatInt(e.EventVersion, 10),
		strconv.FormatInt(e.Timestamp.Unix(), 10), strconv.Itoa(e.Timestamp.Nanosecond()), strconv.Itoa(offset / 60),
		toHex(e.TraceID), toHex(e.CorrelationID), strconv.Itoa(e.TenantID), toHex(string(e.Payload)),
	}, " ")
}

func encodeAnswer(e *envelope) string {
	document, err := e.encode()
	if err != nil {
		return "error " + toHex(err.Error())
	}
	return "ok " + toHex(string(document))
}

func parseFields(words []string) *envelope {
	number := func(at int) int64 {
		n, err := strconv.ParseInt(words[at], 10, 64)
		check(err)
		return n
	}
	zone := time.FixedZone("", int(number(6))*60)
	return &envelope{
		EventID:       string(fromHex(words[0])),
		AggregateID:   string(fromHex(words[1])),
		EventType:     string(fromHex(words[2])),
		EventVersion:  number(3),
		Timestamp:     time.Unix(number(4), number(5)).In(zone),
		TraceID:       string(fromHex(words[7])),
		CorrelationID: string(fromHex(words[8])),
		TenantID:      int(number(9)),
		Payload:       fromHex(words[10]),
	}
}

func toHex(text string) string {
	if text == "" {
		return "-"
	}
	return hex.EncodeToString([]byte(text))
}

func fromHex(word string) []byte {
	if word == "-" {
		return nil
	}
	bytes, err := hex.DecodeString(word)
	check(err)
	return bytes
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
