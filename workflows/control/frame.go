// Package control is how commands reach a daemon on the same host: a Unix socket,
// framed messages on it, a session that goes on when its client leaves, and what
// the daemon and systemd tell each other. What the messages are about is not known
// here.
//
// A conversation:
//
//	daemon  → hello      who it is; a client that speaks another version leaves
//	client  → request    one command
//	daemon  → message …  what the command shows, and what it asks
//	client  → answer, stop, leave …
//	daemon  → exit       how it ended
//
// A client that vanishes has left: what it began goes on.
package control

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Version is the version of the messages. The two sides are programs of one
// release; a client of another version says so and leaves.
const Version = 1

// MaxFrame bounds one message: a plan of a thousand machines has some 2 MB.
const MaxFrame = 16 << 20

// Kind says what a message is.
type Kind string

// Kinds of messages that this package knows by itself. All others are between
// the two programs.
const (
	KindHello   Kind = "hello"   // daemon: Hello
	KindRequest Kind = "request" // client: its command
	KindText    Kind = "text"    // daemon: Text
	KindAsk     Kind = "ask"     // daemon: Question
	KindAnswer  Kind = "answer"  // client: Answer
	KindStop    Kind = "stop"    // client: start nothing new; once more: stop at once
	KindLeave   Kind = "leave"   // client: the rest goes on without it
	KindExit    Kind = "exit"    // daemon: Exit, the last message
)

// Hello says who listens.
type Hello struct {
	Version int `json:"version"`
	// Program is the release of the daemon's program.
	Program string `json:"program"`
	// Site and Catalog are what it works on, PID is its process.
	Site    string `json:"site"`
	Catalog string `json:"catalog"`
	PID     int    `json:"pid"`
}

// Text is a piece of what a command writes.
type Text struct {
	Stream int    `json:"stream"` // file descriptor: 1 or 2
	Text   string `json:"text"`
}

// Question is asked of whoever follows a session.
type Question struct {
	ID   int    `json:"id"`
	Text string `json:"text"`
}

// Answer answers the question of that id.
type Answer struct {
	ID   int    `json:"id"`
	Text string `json:"text"`
}

// Exit is how a command ended.
type Exit struct {
	Code int `json:"code"`
}

// Message is one message on the socket.
type Message struct {
	Kind Kind            `json:"kind"`
	Data json.RawMessage `json:"data,omitempty"`
}

// New makes a message; data is what it carries, nil for nothing.
func New(kind Kind, data any) (Message, error) {
	m := Message{Kind: kind}
	if data == nil {
		return m, nil
	}
	b, err := json.Marshal(data)
	if err != nil {
		return m, fmt.Errorf("writing a %s message: %w", kind, err)
	}
	m.Data = b
	return m, nil
}

// Into reads what a message carries.
func (m Message) Into(v any) error {
	if err := json.Unmarshal(m.Data, v); err != nil {
		return fmt.Errorf("reading a %s message: %w", m.Kind, err)
	}
	return nil
}

// ErrTooLong says that a message is longer than MaxFrame.
var ErrTooLong = fmt.Errorf("the message is longer than %d MiB", MaxFrame>>20)

// Write writes one message: its length as four bytes, the highest first, and
// then a JSON object.
func Write(w io.Writer, m Message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("writing a %s message: %w", m.Kind, err)
	}
	if len(b) > MaxFrame {
		return fmt.Errorf("writing a %s message: %w", m.Kind, ErrTooLong)
	}
	frame := make([]byte, 4, 4+len(b))
	binary.BigEndian.PutUint32(frame, uint32(len(b)))
	if _, err := w.Write(append(frame, b...)); err != nil {
		return fmt.Errorf("writing a %s message: %w", m.Kind, err)
	}
	return nil
}

// Read reads one message, and takes only as much memory as was sent. The error
// is io.EOF where the other side has closed between two messages.
func Read(r io.Reader) (Message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return Message{}, io.EOF
		}
		return Message{}, fmt.Errorf("reading the length of a message: %w", err)
	}
	length := int64(binary.BigEndian.Uint32(head[:]))
	if length > MaxFrame {
		return Message{}, fmt.Errorf("reading a message of %d bytes: %w", length, ErrTooLong)
	}
	var body bytes.Buffer
	if n, err := io.CopyN(&body, r, length); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Message{}, fmt.Errorf("reading a message: %d of %d bytes came: %w", n, length, err)
	}
	var m Message
	if err := json.Unmarshal(body.Bytes(), &m); err != nil {
		return Message{}, fmt.Errorf("reading a message: %w", err)
	}
	if m.Kind == "" {
		return Message{}, errors.New("reading a message: it is of no kind")
	}
	return m, nil
}
