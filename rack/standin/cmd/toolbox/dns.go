package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// resolver answers for the cluster's services, which it asks the API server for.
// It stands in for CoreDNS and knows no other names, endpoints or record types.
type resolver struct {
	domain string
	client *http.Client
	server string
}

const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

func newResolver(domain string) (*resolver, error) {
	ca, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &resolver{
		domain: domain,
		server: "https://" + net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")),
		client: &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}},
	}, nil
}

// serveDNS answers on UDP port 53 until the process ends.
func serveDNS(domain string) error {
	r, err := newResolver(domain)
	if err != nil {
		return err
	}
	conn, err := net.ListenPacket("udp", ":53")
	if err != nil {
		return err
	}
	go func() {
		// Being asked is being well.
		health := &http.Server{Addr: ":8080", ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "OK") })}
		fmt.Fprintln(os.Stderr, health.ListenAndServe())
		os.Exit(1)
	}()
	buffer := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		question := append([]byte(nil), buffer[:n]...)
		go func() {
			if answer, err := r.answer(question); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}()
	}
}

func (r *resolver) answer(question []byte) ([]byte, error) {
	var message dnsmessage.Message
	if err := message.Unpack(question); err != nil {
		return nil, err
	}
	if message.Response || len(message.Questions) != 1 {
		return nil, errors.New("not one question")
	}
	q := message.Questions[0]
	message.Response, message.Authoritative, message.RecursionAvailable = true, true, true
	message.Answers, message.Authorities, message.Additionals = nil, nil, nil
	address, err := r.service(q.Name.String())
	switch {
	case err != nil:
		message.RCode = dnsmessage.RCodeServerFailure
	case !address.IsValid():
		message.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		message.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: dnsmessage.ClassINET, TTL: 5},
			Body:   &dnsmessage.AResource{A: address.As4()},
		}}
	}
	return message.Pack()
}

// service is the cluster address of NAME.NAMESPACE.svc.DOMAIN.; the zero address
// says that there is none.
func (r *resolver) service(name string) (netip.Addr, error) {
	name, ours := strings.CutSuffix(strings.ToLower(name), ".svc."+r.domain+".")
	service, namespace, ok := strings.Cut(name, ".")
	if !ours || !ok || strings.Contains(namespace, ".") || strings.ContainsAny(name, "/?%") {
		return netip.Addr{}, nil
	}
	token, err := os.ReadFile(account + "token")
	if err != nil {
		return netip.Addr{}, err
	}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, r.server+"/api/v1/namespaces/"+namespace+"/services/"+service, nil)
	if err != nil {
		return netip.Addr{}, err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	response, err := r.client.Do(request)
	if err != nil {
		return netip.Addr{}, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNotFound {
		return netip.Addr{}, nil
	}
	var object struct {
		Spec struct {
			ClusterIP string `json:"clusterIP"`
		} `json:"spec"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&object); err != nil {
		return netip.Addr{}, err
	}
	address, err := netip.ParseAddr(object.Spec.ClusterIP)
	if err != nil || !address.Is4() {
		return netip.Addr{}, nil
	}
	return address, nil
}
