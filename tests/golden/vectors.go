package main

import (
	"encoding/hex"
	"strings"
	"time"
	"unicode/utf8"
)

type encodeVector struct {
	Name     string `json:"name"`
	Fields   fields `json:"fields"`
	Document string `json:"document,omitempty"`
	Error    string `json:"error,omitempty"`
	Here     string `json:"here,omitempty"` // what keylane does instead, where it differs on purpose
}

type decodeVector struct {
	Name        string  `json:"name"`
	Document    string  `json:"document,omitempty"`
	DocumentHex string  `json:"document_hex,omitempty"` // instead, if it is not UTF-8
	Fields      *fields `json:"fields,omitempty"`
	Error       string  `json:"error,omitempty"`
	Here        string  `json:"here,omitempty"`
}

type fields struct {
	EventID       string `json:"event_id"`
	AggregateID   string `json:"aggregate_id"`
	EventType     string `json:"event_type"`
	EventVersion  int64  `json:"event_version"`
	Seconds       int64  `json:"seconds"`
	Nanos         int    `json:"nanos"`
	OffsetMinutes int    `json:"offset_minutes"`
	TraceID       string `json:"trace_id"`
	CorrelationID string `json:"correlation_id"`
	TenantID      int    `json:"tenant_id"`
	Payload       string `json:"payload"`
}

func (f fields) envelope() *envelope {
	zone := time.FixedZone("", f.OffsetMinutes*60)
	return &envelope{
		EventID: f.EventID, AggregateID: f.AggregateID, EventType: f.EventType, EventVersion: f.EventVersion,
		Timestamp: time.Unix(f.Seconds, int64(f.Nanos)).In(zone), TraceID: f.TraceID,
		CorrelationID: f.CorrelationID, TenantID: f.TenantID, Payload: []byte(f.Payload),
	}
}

func fieldsOf(e *envelope) *fields {
	_, offset := e.Timestamp.Zone()
	return &fields{
		e.EventID, e.AggregateID, e.EventType, e.EventVersion, e.Timestamp.Unix(), e.Timestamp.Nanosecond(),
		offset / 60, e.TraceID, e.CorrelationID, e.TenantID, string(e.Payload),
	}
}

const refused, accepted = "refused", "accepted"

func vectors() map[string]any {
	return map[string]any{"encode": encodeVectors(), "decode": decodeVectors()}
}

func encodeVectors() (out []encodeVector) {
	base := fields{EventID: "e-1", AggregateID: "order-42", EventType: "OrderPlaced", EventVersion: 1, Payload: `{"amount":9.5}`}
	add := func(name, here string, change func(*fields)) {
		f := base
		change(&f)
		document, err := f.envelope().encode()
		vector := encodeVector{Name: name, Fields: f, Document: string(document), Here: here}
		if err != nil {
			vector.Error = err.Error()
		}
		out = append(out, vector)
	}

	add("the least", "", func(f *fields) {})
	add("every field", "", func(f *fields) {
		*f = fields{"0198a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b", "tenant:7/order_1.a-b", "Order.Placed", 3,
			1754627696, 123456789, 480, "trace-1", "corr-1", 7, `[1, 2,"<raw>"]`}
	})
	add("escapes", "", func(f *fields) {
		f.EventType = "<a>&\"b\"\\c/\b\f\n\r\t\x00\x1f\x7f é 日本 🦀 \u2028\u2029\u202a\u2027"
		f.TraceID, f.CorrelationID = "\u2028", "'<'"
	})
	add("payload verbatim", "", func(f *fields) { f.Payload = " { \"a\" : \"<\u2028>\\u00e9\" , \"b\":[ ] }\n" })
	for _, payload := range []string{`0`, `-0.0e-5`, `1e5`, `true`, `false`, `""`, `"text"`, `[]`, `{}`, `12345678901234567890`, `1E+308`} {
		add("payload "+payload, "", func(f *fields) { f.Payload = payload })
	}
	add("greatest numbers", "", func(f *fields) { f.EventVersion, f.TenantID = 1<<63-1, -1<<63 })

	add("time: unset", "", func(f *fields) { f.Seconds = -62135596800 })
	add("time: one nanosecond", "", func(f *fields) { f.Nanos = 1 })
	add("time: a tenth, west", "", func(f *fields) { f.Nanos, f.OffsetMinutes = 100000000, -210 })
	add("time: before 1970", "", func(f *fields) { f.Seconds, f.Nanos = -1, 999999000 })
	add("time: first", "", func(f *fields) { f.Seconds = -62167219200 })
	add("time: last", "", func(f *fields) { f.Seconds, f.Nanos = 253402300799, 999999999 })
	add("time: last by its offset", "", func(f *fields) { f.Seconds, f.OffsetMinutes = 253402300799+3600, -60 })
	add("time: greatest offset", "", func(f *fields) { f.OffsetMinutes = 23*60 + 59 })
	add("time: leap day", "", func(f *fields) { f.Seconds = 1709164800 })

	add("no event id", "", func(f *fields) { *f = fields{EventID: " \t"} })
	add("no aggregate id", "", func(f *fields) { *f = fields{EventID: "e", AggregateID: "\u00a0"} })
	add("no event type", "", func(f *fields) { *f = fields{EventID: "e", AggregateID: "?", EventType: " "} })
	add("version 0", "", func(f *fields) { f.EventVersion, f.Payload, f.AggregateID = 0, "", "?" })
	add("version -1", "", func(f *fields) { f.EventVersion = -1 })
	add("no payload", "", func(f *fields) { f.Payload, f.AggregateID = "", "?" })
	add("id of 256 bytes", "", func(f *fields) { f.AggregateID = strings.Repeat("a", 256) })
	add("id of 257 bytes", "", func(f *fields) { f.AggregateID = strings.Repeat("é", 128) + "a" })
	for _, id := range []string{"a b", "订单", "a@b", "a#b", "a\x00b"} {
		add("id "+id, "", func(f *fields) { f.AggregateID = id })
	}

	add("time: year 10000", "", func(f *fields) { f.Seconds = 253402300800 })
	add("time: year -1", "", func(f *fields) { f.Seconds = -62167219201 })
	add("time: offset of 24 hours", "", func(f *fields) { f.OffsetMinutes = -24 * 60 })

	add("payload not JSON", refused, func(f *fields) { f.Payload = "message-1" })
	add("payload cut short", refused, func(f *fields) { f.Payload = `{"a":` })
	add("payload of white space", refused, func(f *fields) { f.Payload = "  " })
	add("payload of two values", refused, func(f *fields) { f.Payload = "1 2" })
	add("payload null", refused, func(f *fields) { f.Payload = "null" })
	add("payload with a control character", refused, func(f *fields) { f.Payload = `"\t` + "\t" + `"` })
	add("payload -01", refused, func(f *fields) { f.Payload = "[-01e1]" })
	add("payload 0.1e50", refused, func(f *fields) { f.Payload = "0.1e50" })
	add("payload 1e400", refused, func(f *fields) { f.Payload = "1e400" })
	add("payload too deep", refused, func(f *fields) { f.Payload = nested(2001) })
	add("payload of many digits", accepted, func(f *fields) { f.Payload = "[" + strings.Repeat("9", 400) + "]" })
	add("event id untrimmed", refused, func(f *fields) { f.EventID = "e-1 " })
	add("aggregate id untrimmed", refused, func(f *fields) { f.AggregateID = "\u3000a" })
	return out
}

func nested(levels int) string { return strings.Repeat("[", levels) + strings.Repeat("]", levels) }

func decodeVectors() (out []decodeVector) {
	add := func(name, here, document string) {
		vector := decodeVector{Name: name, Here: here}
		if utf8.ValidString(document) {
			vector.Document = document
		} else {
			vector.DocumentHex = hex.EncodeToString([]byte(document))
		}
		if e, err := decode([]byte(document)); err != nil {
			vector.Error = err.Error()
		} else if vector.DocumentHex == "" {
			vector.Fields = fieldsOf(e)
		}
		out = append(out, vector)
	}
	const head = `{"event_id":"e","aggregate_id":"a","event_type":"t","event_version":1,`
	with := func(name, here, rest string) { add(name, here, head+rest+`}`) }
	payload := func(text string) { with("payload "+text, "", `"payload":`+text) }
	stamp := func(text string) { with("time "+text, "", `"timestamp":`+text+`,"payload":1`) }
	version := func(text string) { with("version "+text, "", `"payload":1,"event_version":`+text) }

	with("the least", "", `"payload":1`)
	add("the format's sample", "", `{"event_id":"evt-2","aggregate_id":"tenant:7/order-123","event_type":"A\u003cB\u0026C","event_version":2,"timestamp":"2026-08-08T04:34:56.5Z","trace_id":"trace-1","correlation_id":"corr-1","tenant_id":7,"payload":[1, 2,"<raw>"]}`)
	add("the first version", "", `{"aggregate_id":"aggregate-0","event_type":"TestEvent","event_version":1,"timestamp":"2025-10-13T10:00:00Z","payload":"YWdncmVnYXRlIGFnZ3JlZ2F0ZS0wIG1lc3NhZ2UgMQ=="}`)
	add("white space everywhere", "", " \n{\t\"event_id\" : \"e\" ,\r\"aggregate_id\":\" a\\t\",\"event_type\":\"t\",\"event_version\": 1 ,\"payload\" :  [ 1 ] }\r\n ")
	add("upper case names", "", `{"EVENT_ID":"e","Aggregate_ID":"a","event_Type":"t","Event_version":1,"PayLoad":1}`)
	add("escaped names", "", `{"\u0065vent_id":"e","aggregate\u005Fid":"a","\u0045vent_type":"t","event_version":1,"payloa\u0064":1}`)
	with("a name that only looks alike", "", `"payload":1,"\u212a":2,"event_ıd":3`)
	with("unknown fields", "", `"x":{"a":[1,{"b":null}],"c":"\ud800"},"":0,"payload":1,"y":-1.5e-3`)
	with("the last of several wins", "", `"payload":1,"event_id":"f","EVENT_ID":"g","payload":2`)
	with("null leaves numbers and the time", "", `"timestamp":"2025-01-02T03:04:05Z","timestamp":null,"event_version":null,"tenant_id":5,"tenant_id":null,"payload":1`)
	with("null empties text", "", `"trace_id":"x","trace_id":null,"event_id":null,"payload":1`)
	with("null empties the payload", "", `"payload":1,"payload":null`)
	with("escapes", "", `"trace_id":"\"\\\/\b\f\n\r\t\u00e9\ud83e\udd80\u0000","payload":1`)
	with("surrogates alone", "", `"trace_id":"\ud800|\udc00|\ud800\n|\ud800\ud83e\udd80|\ud800\u0041","payload":1`)
	with("control characters in a name", "", "\"x\ty\":1,\"payload\":1")
	with("a control character in text", "", "\"trace_id\":\"x\ty\",\"payload\":1")
	with("a control character after an escape", "", "\"trace_id\":\"\\n\ty\",\"payload\":1")
	with("null as a later key", "", `"x":{"a":1,null:2},"payload":{"a":1, null :2}`)
	with("null as a first key", "", `"payload":{null:2}`)
	with("a bad escape", "", `"trace_id":"\x41","payload":1`)
	with("a short escape", "", `"trace_id":"\u41","payload":1`)

	for _, text := range []string{`null`, `0`, `-0`, `-1`, `00`, `01`, `-01`, `-01e2`, `-.5`, `-.5e1`, `-+5`, `-+.5e1`, `--5`, `-`, `-e5`, `-.`, `+1`, `.5`,
		`1.`, `1.e5`, `1.5`, `1.5.5`, `1e5`, `1e`, `1e+`, `1E-5`, `1e5.5`, `1e400`, `-1e400`, `0e400`, `0.1e38`, `0.1e50`, `-0.1e50`, `1e-400`, `0x1`, `1_0`, `Infinity`, `NaN`,
		strings.Repeat("9", 400), `1-1`, `true`, `false`, `nul`, `tru`, `falsee`, `True`, `"x"`, "\"x\ty\"", "\"\\n\ty\"", `"\u12"`, `"\ud800"`, `'x'`, `[]`, `[1,]`, `[,1]`,
		`[1 2]`, `[1`, `[}`, `{}`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`, `{"a":1 "b":2}`, `{1:2}`, `{"a":1]`, ` [ 1 , 2 ] `, `{ "a" : [ ] }`, ``, `// c` + "\n1"} {
		payload(text)
	}
	for _, text := range []string{`"2025-01-02T03:04:05Z"`, `"2025-01-02T03:04:05.1Z"`, `"2025-01-02T03:04:05.123456789Z"`, `"2025-01-02T03:04:05.1234567899Z"`, `"2025-01-02T03:04:05,5Z"`,
		`"2025-01-02T3:04:05Z"`, `"2025-01-02T03:04:05+08:00"`, `"2025-01-02T03:04:05-03:30"`, `"2025-01-02T03:04:05+24:00"`, `"2025-01-02T03:04:05-24:60"`, `"2025-01-02T03:04:05+25:00"`,
		`"2025-01-02T03:04:05+00:61"`, `"2025-01-02T03:04:05+00:00"`, `"2025-01-02T03:04:05-00:00"`, `"2025-01-02t03:04:05Z"`, `"2025-01-02T03:04:05z"`, `"2025-01-02 03:04:05Z"`,
		`"2025-01-02T03:04:60Z"`, `"2025-01-02T24:00:00Z"`, `"2025-01-02T03:60:05Z"`, `"2025-13-02T03:04:05Z"`, `"2025-00-02T03:04:05Z"`, `"2025-01-00T03:04:05Z"`, `"2025-02-29T03:04:05Z"`,
		`"2024-02-29T03:04:05Z"`, `"1900-02-29T03:04:05Z"`, `"2000-02-29T03:04:05Z"`, `"0000-01-01T00:00:00Z"`, `"9999-12-31T23:59:59.999999999-23:59"`, `"10000-01-01T00:00:00Z"`, `"2025-1-02T03:04:05Z"`,
		`"2025-01-02T03:04:5Z"`, `"2025-01-02T03:04:05"`, `"2025-01-02T03:04:05.Z"`, `"2025-01-02T03:04:05Z "`, `"2025-01-02T03:04:05\u005a"`, `"+2025-01-02T03:04:05Z"`, `"2025-01-02T03:04:05+0800"`,
		`"2025-01-02T03:04:05+08:00Z"`, `"2025-01-02T03:04:05 08:00"`, `"2025-01-02T003:04:05Z"`, `"0001-01-01T00:00:00Z"`, `""`, `null`, `1`, `{}`, `"`} {
		stamp(text)
	}
	for _, text := range []string{`1`, `0`, `-1`, `-0`, `01`, `1.0`, `1e1`, `"1"`, `true`, `9223372036854775807`, `9223372036854775808`, `-9223372036854775808`, `18446744073709551616`, `null`, `- 1`, `-`, `[]`} {
		version(text)
	}

	for _, document := range []string{``, ` `, `null`, ` null `, `nul`, `{}`, `[]`, `1`, `"x"`, `{`, `{"event_id"`, `{"event_id":`, `{"event_id":"e`, `{"event_id":"e"`, `{"event_id":"e",}`, `{"event_id" "e"}`,
		`{null:1}`, `{"event_id":1}`, `{"event_id":["e"]}`, `{"x":1} {}`, `{} x`, "\ufeff{}"} {
		add("document "+document, "", document)
	}
	add("no aggregate id", "", `{"event_id":"e","event_type":"t","event_version":1,"payload":1}`)
	add("no event type", "", `{"event_id":"e","aggregate_id":"a","event_type":"\u2003","event_version":1,"payload":1}`)
	add("no version", "", `{"event_id":"e","aggregate_id":"a","event_type":"t","payload":1}`)
	add("no payload", "", `{"event_id":"e","aggregate_id":"a","event_type":"t","event_version":1}`)
	add("invalid id", "", `{"event_id":"e","aggregate_id":"订单","event_type":"t","event_version":1,"payload":1}`)
	with("payload of 2000 levels", "", `"payload":`+nested(2000))
	with("payload of 10000 levels", "", `"payload":`+nested(10000))

	with("payload of 2001 levels", refused, `"payload":`+nested(2001))
	with("not UTF-8 in the payload", "", "\"payload\":\"\xff\"")
	with("not UTF-8 in text", refused, "\"trace_id\":\"\xff\",\"payload\":1")
	with("not UTF-8 in escaped text", refused, "\"trace_id\":\"\\n\xc3\",\"payload\":1")
	with("not UTF-8 in an unknown name", refused, "\"\xff\":1,\"payload\":1")
	with("not UTF-8 in an unknown value", refused, "\"x\":[\"\xff\"],\"payload\":1")
	with("a version that wraps", refused, `"payload":1,"event_version":21000000000000000000`)
	with("a large number JSON has no form for", refused, `"payload":-01e999`)
	add("a NUL after the document", refused, head+"\"payload\":1}\x00garbage")
	return out
}
