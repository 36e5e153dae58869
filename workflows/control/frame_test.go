package control_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/workflows/control"
)

func message(t *testing.T, kind control.Kind, data any) control.Message {
	t.Helper()
	m, err := control.New(kind, data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMessagesComeAsTheyWereSent(t *testing.T) {
	var wire bytes.Buffer
	sent := []control.Message{
		message(t, control.KindText, control.Text{Stream: 2, Text: "zwölf\n\x00"}),
		message(t, control.KindStop, nil),
		message(t, control.KindExit, control.Exit{Code: 1}),
	}
	for _, m := range sent {
		if err := control.Write(&wire, m); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range sent {
		got, err := control.Read(&wire)
		if err != nil || got.Kind != want.Kind || !bytes.Equal(got.Data, want.Data) {
			t.Errorf("Read() = %s %s, %v; want %s %s", got.Kind, got.Data, err, want.Kind, want.Data)
		}
	}
	if _, err := control.Read(&wire); !errors.Is(err, io.EOF) {
		t.Errorf("Read() after the last = %v; want io.EOF", err)
	}
}

func frame(length uint32, body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, length), body...)
}

func TestWhatIsNoMessageIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		bytes []byte
		want  string
	}{
		"half a length":   {[]byte{0, 0}, "length"},
		"too long":        {frame(control.MaxFrame+1, ""), "longer than"},
		"cut off":         {frame(100, `{"kind":"text"}`), "15 of 100 bytes"},
		"no JSON":         {frame(4, "GET "), "reading a message"},
		"no kind":         {frame(2, "{}"), "no kind"},
		"HTTP by mistake": {[]byte("GET / HTTP/1.1\r\n\r\n"), "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := control.Read(bytes.NewReader(c.bytes))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Read(%q) = %+v, %v; want an error with %q", c.bytes, m, err, c.want)
			}
		})
	}
	long := message(t, control.KindText, control.Text{Text: strings.Repeat("x", control.MaxFrame)})
	if err := control.Write(io.Discard, long); !errors.Is(err, control.ErrTooLong) {
		t.Errorf("Write(17 MB) = %v; want ErrTooLong", err)
	}
}

// TestALengthTakesNoMemory claims the longest message and sends none of it.
func TestALengthTakesNoMemory(t *testing.T) {
	claim := frame(control.MaxFrame, "")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := control.Read(bytes.NewReader(claim)); err == nil {
		t.Error("a message of which nothing came was read")
	}
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 1<<20 {
		t.Errorf("reading the length of a message of %d bytes takes %d bytes; want little", control.MaxFrame, allocated)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(frame(15, `{"kind":"text"}`))
	f.Add(frame(40, `{"kind":"request","data":{"path":"/a"}}`))
	f.Add(frame(0xffffffff, "{"))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bytes.NewReader(raw)
		for {
			m, err := control.Read(r)
			if err != nil {
				return
			}
			var again bytes.Buffer
			if err := control.Write(&again, m); err != nil {
				t.Fatalf("Write(%+v) of what was read = %v", m, err)
			}
			back, err := control.Read(&again)
			if err != nil || back.Kind != m.Kind {
				t.Fatalf("Read(Write(%+v)) = %+v, %v", m, back, err)
			}
		}
	})
}
