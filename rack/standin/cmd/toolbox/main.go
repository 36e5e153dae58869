// Program toolbox is what runs in the pods of tests: it waits as a pod's first
// process, answers requests, and asks for answers. It is static and has no
// dependencies, so that an image of it is one file.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const usage = `usage:
  toolbox pause                 wait for a signal and reap children
  toolbox serve ADDRESS         answer HTTP with the hostname
  toolbox get URL [TIMEOUT]     print an answer; exit 1 without one
  toolbox dial ADDRESS [TIMEOUT] connect by TCP; exit 1 if that fails
  toolbox dns DOMAIN            answer for the services of the cluster, in a pod
`

func main() {
	args := append(os.Args[1:], "", "", "")
	timeout := 3 * time.Second
	if d, err := time.ParseDuration(args[2]); err == nil {
		timeout = d
	}
	var err error
	switch args[0] {
	case "pause":
		pause()
	case "serve":
		err = serve(args[1])
	case "get":
		err = get(args[1], timeout)
	case "dial":
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp", args[1], timeout); err == nil {
			err = conn.Close()
		}
	case "dns":
		err = serveDNS(args[1])
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// pause does what Kubernetes's pause does: it is a pod's first process, so it
// inherits the children of others.
func pause() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

func serve(address string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	server := &http.Server{Addr: address, ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, host+"\n")
	})}
	go func() {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
		<-signals
		os.Exit(0)
	}()
	return server.ListenAndServe()
}

func get(url string, timeout time.Duration) error {
	client := http.Client{Timeout: timeout}
	r, err := client.Get(url)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if _, err := io.Copy(os.Stdout, r.Body); err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, r.Status)
	}
	return nil
}
