package main

import (
	"bufio"
	"bytes"
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
	"sync/atomic"
	"time"
)

// shipLogs reads the configuration that our step writes for Fluentd, as far as
// it is the endpoint of an HTTP output, follows the containers' log files in
// CRI's format, and posts their lines. It counts writes as Fluentd does. It has
// no buffer: what cannot be sent is read again.
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
	endpoint string
	exclude  string
	header   string
	site     string
	client   *http.Client
	offsets  map[string]int64
	writes   atomic.Int64
	retries  atomic.Int64
}

var (
	endpointLine = regexp.MustCompile(`(?m)^\s*endpoint '(.*)'$`)
	excludeLine  = regexp.MustCompile(`(?m)^\s*exclude_path \["(.*)"\]$`)
	siteLine     = regexp.MustCompile(`(?m)^\s*site '(.*)'$`)
)

func newShipper(path string) (*shipper, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	endpoint := endpointLine.FindSubmatch(b)
	if endpoint == nil {
		return nil, fmt.Errorf("%s has no HTTP output, and this stand-in speaks nothing else", path)
	}
	s := &shipper{
		endpoint: string(endpoint[1]), header: os.Getenv("AUTHORIZATION"),
		client: &http.Client{Timeout: 20 * time.Second}, offsets: map[string]int64{},
	}
	if m := excludeLine.FindSubmatch(b); m != nil {
		s.exclude = string(m[1])
	}
	if m := siteLine.FindSubmatch(b); m != nil {
		s.site = string(m[1])
	}
	return s, nil
}

func (s *shipper) metrics(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintf(w, "fluentd_output_status_write_count{plugin_id=\"standin\",type=\"http\"} %d.0\n", s.writes.Load())
	fmt.Fprintf(w, "fluentd_output_status_retry_count{plugin_id=\"standin\",type=\"http\"} %d.0\n", s.retries.Load())
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
			s.retries.Add(1)
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// record is one line as it is posted.
type record struct {
	Message string `json:"message"`
	Stream  string `json:"stream"`
	File    string `json:"file"`
	Node    string `json:"node"`
	Site    string `json:"site"`
}

// ship posts what is new in all files, and remembers how far it was only when
// the sink has taken it.
func (s *shipper) ship(ctx context.Context) error {
	files, err := filepath.Glob("/var/log/containers/*.log")
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
	if err := s.post(ctx, batch); err != nil {
		return err
	}
	for f, offset := range reached {
		s.offsets[f] = offset
	}
	s.writes.Add(1)
	return nil
}

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
	partial := ""
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return out, offset, nil // the rest has no end yet
		}
		offset += int64(len(line))
		// time, stream, P or F, message
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(fields) != 4 {
			continue
		}
		partial += fields[3]
		if fields[2] == "P" {
			continue
		}
		out = append(out, record{Message: partial, Stream: fields[1], File: filepath.Base(path), Node: os.Getenv("NODE_NAME"), Site: s.site})
		partial = ""
	}
}

func (s *shipper) post(ctx context.Context, batch []record) error {
	b, err := json.Marshal(batch)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.endpoint, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Records", strconv.Itoa(len(batch)))
	if s.header != "" {
		req.Header.Set("Authorization", s.header)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the sink answers %s", resp.Status)
	}
	return nil
}
