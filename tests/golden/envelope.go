// Package main is the other side of the envelope's wire format: the same struct and the same encoder
// library as the Go services that share topics with us.
package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	jsoniter "github.com/json-iterator/go"
)

var codec = jsoniter.ConfigCompatibleWithStandardLibrary

type envelope struct {
	EventID       string              `json:"event_id"`
	AggregateID   string              `json:"aggregate_id"`
	EventType     string              `json:"event_type"`
	EventVersion  int64               `json:"event_version"`
	Timestamp     time.Time           `json:"timestamp"`
	TraceID       string              `json:"trace_id,omitempty"`
	CorrelationID string              `json:"correlation_id,omitempty"`
	TenantID      int                 `json:"tenant_id,omitempty"`
	Payload       jsoniter.RawMessage `json:"payload"`
}

func blank(s string) bool { return strings.TrimSpace(s) == "" }

func (e *envelope) validate() error {
	required := []struct {
		missing bool
		text    string
	}{
		{blank(e.EventID), "event_id is required"},
		{blank(e.AggregateID), "aggregate_id is required"},
		{blank(e.EventType), "event_type is required"},
		{e.EventVersion <= 0, "event_version must be positive"},
		{len(e.Payload) == 0, "payload is required"},
	}
	for _, check := range required {
		if check.missing {
			return errors.New(check.text)
		}
	}
	if err := validID(e.AggregateID); err != nil {
		return fmt.Errorf("invalid aggregate_id: %w", err)
	}
	return nil
}

const idCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_-./"

func validID(id string) error {
	id = strings.TrimSpace(id)
	switch {
	case id == "":
		return errors.New("aggregate_id cannot be empty")
	case len(id) > 256:
		return errors.New("aggregate_id too long (max 256 characters)")
	}
	for _, r := range id {
		if !strings.ContainsRune(idCharacters, r) {
			return fmt.Errorf("aggregate_id contains invalid character: %c", r)
		}
	}
	return nil
}

func (e *envelope) encode() ([]byte, error) {
	if err := e.validate(); err != nil {
		return nil, err
	}
	return codec.Marshal(e)
}

func decode(data []byte) (*envelope, error) {
	e := new(envelope)
	if err := codec.Unmarshal(data, e); err != nil {
		// The library's text quotes the document, so only its place in the chain is compared.
		return nil, errors.New("failed to unmarshal envelope")
	}
	if err := e.validate(); err != nil {
		return nil, fmt.Errorf("invalid envelope: %w", err)
	}
	return e, nil
}
