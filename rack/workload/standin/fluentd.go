package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// shipLogs reads the configuration that our step writes for Fluentd, as far as
// it is an HTTP output and what is done with containers' logs, follows their files in
// CRI's format, and posts their lines. It takes the sink's answers and counts as
// Fluentd does: an attempt when it begins, a failure when it is to be repeated, and a
// chunk that the sink refuses for good goes to the backup. It has no buffer: what
// cannot be sent is read again.
func shipLogs(ctx context.Context) error {
	s, err := newShipper("/fluentd/etc/fluent.conf")
	if err != nil {
		return err
	}
	server := &http.Server{Addr: ":24231", Handler: http.HandlerFunc(s.metrics), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	go s.follow(ctx)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type shipper struct {
	id       string // of the output
	endpoint string
	logs     string // pattern of the containers' files
	exclude  string
	header   string
	site     string
	backup   string       // directory for chunks that the sink refuses for good
	retried  map[int]bool // statuses after which a chunk is sent again
	client   *http.Client
	offsets  map[string]int64

	mu sync.Mutex
	// attempts and failures are counters; queued is the size of the chunk that is under
	// way or waits to be sent again, and waiting says which of the two.
	attempts, failures, queued int
	waiting                    bool
}

// setting is the value of a parameter of the configuration, and empty where there is
// none.
func setting(configuration []byte, name string) string {
	m := regexp.MustCompile(`(?m)^\s*` + name + ` (.*)$`).FindSubmatch(configuration)
	if m == nil {
		return ""
	}
	return string(m[1])
}

func newShipper(path string) (*shipper, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &shipper{
		id: setting(b, "@id"), endpoint: strings.Trim(setting(b, "endpoint"), "'"), logs: setting(b, "path"), exclude: strings.Trim(setting(b, "exclude_path"), `[]"`),
		site: strings.Trim(setting(b, "site"), "'"), retried: map[int]bool{}, offsets: map[string]int64{},
		// Fluentd's takes a redirection for an answer like others.
		client: &http.Client{Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	if s.endpoint == "" {
		return nil, fmt.Errorf("%s has no HTTP output, and this stand-in speaks nothing else", path)
	}
	if strings.Contains(setting(b, "headers"), "ENV['AUTHORIZATION']") {
		s.header = os.Getenv("AUTHORIZATION")
	}
	s.backup = filepath.Join(cmp.Or(setting(b, "root_dir"), "/tmp/fluent"), "backup", "worker0", s.id)
	for _, code := range strings.Split(cmp.Or(setting(b, "retryable_response_codes"), "503"), ",") {
		status, err := strconv.Atoi(code)
		if err != nil {
			return nil, fmt.Errorf("%s: retryable_response_codes: %w", path, err)
		}
		s.retried[status] = true
	}
	return s, nil
}

func (s *shipper) metrics(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := 0
	if s.waiting {
		waiting = 1
	}
	for _, m := range []struct {
		name string
		n    int
	}{
		{"write_count", s.attempts},
		{"retry_count", s.failures},
		{"num_errors", s.failures},
		{"rollback_count", 0},
		{"buffer_stage_length", 0},
		{"buffer_queue_length", waiting},
		{"buffer_queue_byte_size", s.queued},
	} {
		fmt.Fprintf(w, "fluentd_output_status_%s{plugin_id=%q,type=\"http\"} %d.0\n", m.name, s.id, m.n)
	}
}

// count changes what metrics tells.
func (s *shipper) count(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *shipper) follow(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.ship(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// record is one line as it is posted.
type record struct {
	Message string `json:"message"`
	Stream  string `json:"stream"`
	Time    string `json:"time"`
	File    string `json:"file"`
	Node    string `json:"node"`
	Site    string `json:"site"`
}

// ship posts what is new in all files, and remembers how far it was only when
// the sink has taken it or has refused it for good.
func (s *shipper) ship(ctx context.Context) error {
	files, err := filepath.Glob(s.logs)
	if err != nil {
		return err
	}
	var batch []record
	reached := map[string]int64{}
	for _, f := range files {
		if skip, _ := filepath.Match(s.exclude, f); skip {
			continue
		}
		records, offset, err := s.read(f)
		if err != nil {
			continue // its pod has gone
		}
		batch, reached[f] = append(batch, records...), offset
	}
	if len(batch) == 0 {
		return nil
	}
	if err := s.send(ctx, batch); err != nil {
		return err
	}
	for f, offset := range reached {
		s.offsets[f] = offset
	}
	return nil
}

// send is one attempt with one chunk. An error is a failure after which it is sent
// again.
func (s *shipper) send(ctx context.Context, batch []record) error {
	chunk, err := json.Marshal(batch)
	if err != nil {
		return err
	}
	s.count(func() { s.attempts++; s.queued, s.waiting = len(chunk), false })
	status, err := s.post(ctx, chunk)
	if err == nil && s.retried[status] {
		err = fmt.Errorf("the sink answers %d", status)
	}
	if err != nil {
		s.count(func() { s.failures++; s.waiting = true })
		return err
	}
	if status/100 != 2 {
		if err := s.reject(chunk, status); err != nil {
			return err
		}
	}
	s.count(func() { s.queued = 0 })
	return nil
}

// reject keeps a chunk that the sink refuses for good.
func (s *shipper) reject(chunk []byte, status int) error {
	path := filepath.Join(s.backup, strconv.FormatInt(time.Now().UnixNano(), 16)+".log")
	fmt.Fprintf(os.Stderr, "the sink answers %d; bad chunk is moved to %s\n", status, path)
	if err := os.MkdirAll(s.backup, 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, chunk, 0o600)
}

// read returns the lines that are whole since the last time, and how far they reach.
func (s *shipper) read(path string) ([]record, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	offset := s.offsets[path]
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, 0, err
	}
	var out []record
	// whole is as far as no line has a part missing, and kept how many of out that is.
	whole, kept := offset, 0
	parts := map[string]*record{} // by stream
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return out[:kept], whole, nil // the rest has no end yet
		}
		offset += int64(len(line))
		// time, stream, P or F, message
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(fields) == 4 {
			r := parts[fields[1]]
			if r == nil {
				r = &record{Stream: fields[1], Time: fields[0], File: filepath.Base(path), Node: os.Getenv("NODE_NAME"), Site: s.site}
				parts[fields[1]] = r
			}
			r.Message += fields[3]
			if fields[2] != "P" {
				out = append(out, *r)
				delete(parts, fields[1])
			}
		}
		if len(parts) == 0 {
			whole, kept = offset, len(out)
		}
	}
}

func (s *shipper) post(ctx context.Context, chunk []byte) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.endpoint, bytes.NewReader(chunk))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	if s.header != "" {
		req.Header.Set("Authorization", s.header)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}
