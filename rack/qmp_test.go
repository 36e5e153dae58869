package rack

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// scriptedEmulator answers QMP commands from a table; a command that is not in
// it is never answered.
func scriptedEmulator(t *testing.T, answers map[string]string) (ours net.Conn) {
	t.Helper()
	ours, theirs := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if _, err := io.WriteString(theirs, `{"QMP": {"version": {}}}`+"\n"); err != nil {
			return
		}
		lines := bufio.NewScanner(theirs)
		for lines.Scan() {
			var q struct{ Execute string }
			if json.Unmarshal(lines.Bytes(), &q) != nil {
				return
			}
			answer, ok := answers[q.Execute]
			if !ok {
				continue
			}
			if _, err := io.WriteString(theirs, answer); err != nil {
				return
			}
			if strings.HasSuffix(answer, "EOF") {
				_ = theirs.Close()
			}
		}
	}()
	t.Cleanup(func() {
		_ = theirs.Close()
		_ = ours.Close()
		<-ended
	})
	return ours
}

func TestQMPAnswersErrorsAndEvents(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	q, err := dialQMP(ctx, scriptedEmulator(t, map[string]string{
		"qmp_capabilities": `{"return": {}}`,
		"query-status":     `{"event": "NIC_RX_FILTER_CHANGED"} {"return": {"status": "running"}}`,
		"wrong":            `{"error": {"class": "GenericError", "desc": "no such thing"}}`,
		"end":              `{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}} {"return": {}} EOF`,
	}))
	if err != nil {
		t.Fatalf("dialQMP = %v", err)
	}
	var st struct{ Status string }
	if err := q.execute(ctx, "query-status", nil, &st); err != nil || st.Status != "running" {
		t.Errorf("execute(query-status) = %+v, %v; want running", st, err)
	}
	if err := q.execute(ctx, "wrong", nil, nil); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("execute(wrong) = %v; want QEMU's own words", err)
	}
	if err := q.execute(ctx, "end", nil, nil); err != nil {
		t.Errorf("execute(end) = %v", err)
	}
	if !q.reset() {
		t.Errorf("reset() = false; want the announced reset")
	}
	if err := q.execute(ctx, "query-status", nil, nil); err == nil {
		t.Errorf("execute after the end = nil; want an error")
	}
	if err := q.close(); err != nil {
		t.Errorf("close = %v", err)
	}
}

func TestQMPWaitsAreBounded(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	q, err := dialQMP(ctx, scriptedEmulator(t, map[string]string{"qmp_capabilities": `{"return": {}}`}))
	if err != nil {
		t.Fatalf("dialQMP = %v", err)
	}
	short, cancelShort := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancelShort()
	if err := q.execute(short, "query-status", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("execute without answer = %v; want its deadline exceeded", err)
	}
	if err := q.close(); err != nil {
		t.Errorf("close = %v", err)
	}
	silent, other := net.Pipe()
	defer other.Close()
	short, cancelShort = context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancelShort()
	if _, err := dialQMP(short, silent); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dialQMP of a silent peer = %v; want its deadline exceeded", err)
	}
}

func TestAnEmulatorThatDiesIsNoReset(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	q, err := dialQMP(ctx, scriptedEmulator(t, map[string]string{
		"qmp_capabilities": `{"return": {}}`,
		"end":              `{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}} {"return": {}} EOF`,
	}))
	if err != nil {
		t.Fatalf("dialQMP = %v", err)
	}
	if err := q.execute(ctx, "end", nil, nil); err != nil {
		t.Errorf("execute(end) = %v", err)
	}
	if q.reset() {
		t.Errorf("reset() after a shutdown = true; want false")
	}
	if err := q.close(); err != nil {
		t.Errorf("close = %v", err)
	}
}
