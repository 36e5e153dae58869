package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// ErrNotFound says that the API server knows no such object.
var ErrNotFound = errors.New("there is no such object")

// Cluster is one Kubernetes cluster. It is safe for concurrent use.
type Cluster struct {
	config Config
	server *url.URL
	http   *http.Client
	client dynamic.Interface

	mu     sync.Mutex
	served map[schema.GroupVersion]map[string]resource // by kind
}

// systemClock is the machine's own clock.
type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Open reads the kubeconfig; it does not ask the server anything.
func Open(config Config) (*Cluster, error) {
	if config.Clock == nil {
		config.Clock = systemClock{}
	}
	if config.RequestTimeout == 0 {
		config.RequestTimeout = 30 * time.Second
	}
	if config.Attempts == 0 {
		config.Attempts = 6
	}
	if config.RetryFor == 0 {
		config.RetryFor = 45 * time.Second
	}
	if config.ReachTimeout == 0 {
		config.ReachTimeout = reachLimit
	}
	if config.PollInterval == 0 {
		config.PollInterval = time.Second
	}
	restConfig, err := readKubeconfig(config.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig: %w", err)
	}
	server, err := url.Parse(restConfig.Host)
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig: its server: %w", err)
	}
	restConfig.UserAgent = Manager
	// A run's work on one cluster is sequential and bounded by its own budgets;
	// the server's fairness queues do the rest.
	restConfig.QPS = -1
	// Only cmd reads the environment, and a site's API server is no proxy's
	// business.
	restConfig.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	// The library would print what the server remarks to the standard error of the
	// program, once for each look; what the server does not take is an error.
	restConfig.WarningHandler = rest.NoWarnings{}
	restConfig.Wrap(func(base http.RoundTripper) http.RoundTripper { return newTransport(base, config) })
	client, err := rest.HTTPClientFor(restConfig)
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig: %w", err)
	}
	// The credentials are added to every request, also to one that an answer
	// sends elsewhere.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	objects, err := dynamic.NewForConfigAndClient(restConfig, client)
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig: %w", err)
	}
	return &Cluster{config: config, server: server, http: client, client: objects, served: map[schema.GroupVersion]map[string]resource{}}, nil
}

// Close drops idle connections.
func (c *Cluster) Close() { c.http.CloseIdleConnections() }

// readKubeconfig takes the current context of a kubeconfig. It may come from a
// machine, so that nothing in it may name a file or a program here.
func readKubeconfig(content []byte) (*rest.Config, error) {
	if len(content) > 1<<20 {
		return nil, fmt.Errorf("it has %d bytes; the limit is 1 MiB", len(content))
	}
	loaded, err := clientcmd.Load(content)
	if err != nil {
		// The decoder's own words can repeat parts of the text, which is a secret.
		return nil, errors.New("it is no kubeconfig in YAML or JSON")
	}
	current, ok := loaded.Contexts[loaded.CurrentContext]
	if !ok {
		return nil, fmt.Errorf("its current-context %q is not among its contexts", loaded.CurrentContext)
	}
	cluster, ok := loaded.Clusters[current.Cluster]
	if !ok {
		return nil, fmt.Errorf("its context %q names cluster %q, which it does not have", loaded.CurrentContext, current.Cluster)
	}
	user, ok := loaded.AuthInfos[current.AuthInfo]
	if !ok {
		return nil, fmt.Errorf("its context %q names user %q, which it does not have", loaded.CurrentContext, current.AuthInfo)
	}
	if err := selfContained(cluster, user); err != nil {
		return nil, err
	}
	return clientcmd.NewDefaultClientConfig(*loaded, &clientcmd.ConfigOverrides{}).ClientConfig()
}

func selfContained(cluster *clientcmdapi.Cluster, user *clientcmdapi.AuthInfo) error {
	switch {
	case !strings.HasPrefix(cluster.Server, "https://"):
		return fmt.Errorf("its server %q is not an https URL", cluster.Server)
	case cluster.InsecureSkipTLSVerify:
		return errors.New("insecure-skip-tls-verify would send credentials to anybody; give certificate-authority-data")
	case len(cluster.CertificateAuthorityData) == 0:
		return errors.New("it has no certificate-authority-data, so that the server cannot be told from another")
	case cluster.CertificateAuthority != "" || user.ClientCertificate != "" || user.ClientKey != "" || user.TokenFile != "":
		return errors.New("it names files; put their content into it (the attributes that end in -data, and token)")
	case user.Exec != nil || user.AuthProvider != nil:
		return errors.New("it names a program that gives credentials, which is not run; use a client certificate or a token")
	case cluster.ProxyURL != "":
		return errors.New("proxy-url is not supported")
	}
	return nil
}

// asked puts an error of the API into the terms of this package: what was asked,
// and whether there was an answer to it at all.
func (c *Cluster) asked(ctx context.Context, operation string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", operation, context.Cause(ctx))
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return &UnreachableError{Server: c.server.Host, Operation: operation, Err: unwrapURL(err)}
	}
	// A redirection comes from something in between, and not from an API server.
	if code := int(status.Status().Code); transient(code) || code < 400 {
		return &UnreachableError{Server: c.server.Host, Operation: operation, Err: err}
	}
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%s: %w", operation, errors.Join(ErrNotFound, err))
	}
	return fmt.Errorf("%s: %w", operation, err)
}

// unwrapURL drops the method and URL that net/http puts before its errors.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// raw reads a path of the API server that is no object.
func (c *Cluster) raw(ctx context.Context, path string, query url.Values) ([]byte, error) {
	u := c.server.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.asked(ctx, "asking for "+path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		var status metav1.Status
		if json.Unmarshal(body, &status) != nil || status.Status != metav1.StatusFailure {
			status = metav1.Status{Status: metav1.StatusFailure, Code: int32(resp.StatusCode), Message: resp.Status}
			if resp.StatusCode == http.StatusNotFound {
				status.Reason = metav1.StatusReasonNotFound
			}
		}
		err = &apierrors.StatusError{ErrStatus: status}
	}
	return body, c.asked(ctx, "asking for "+path, err)
}

// reachLimit bounds Reach. A server that is busy answers for one object in a
// second; one that takes longer than this would take minutes over a plan.
const reachLimit = 15 * time.Second

// Reach asks for one object, which the API server must ask its database for, so
// that a plan need not wait for every object of a cluster that is silent. The
// error is an UnreachableError when there was no answer in time; any other answer
// is one, also that it may not be read.
func (c *Cluster) Reach(ctx context.Context) error {
	limit := c.config.ReachTimeout
	bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer in %s", limit))
	defer cancel()
	_, err := c.raw(bounded, "/api/v1/namespaces/default", nil)
	if bounded.Err() != nil && ctx.Err() == nil {
		return &UnreachableError{Server: c.server.Host, Operation: "asking whether it is there", Err: context.Cause(bounded)}
	}
	var gone *UnreachableError
	if ctx.Err() != nil || errors.As(err, &gone) {
		return err
	}
	return nil
}

// Version is the server's version, such as v1.34.4+k3s1.
func (c *Cluster) Version(ctx context.Context) (string, error) {
	body, err := c.raw(ctx, "/version", nil)
	if err != nil {
		return "", err
	}
	var v struct {
		GitVersion string `json:"gitVersion"`
	}
	if err := json.Unmarshal(body, &v); err != nil || v.GitVersion == "" {
		return "", &UnreachableError{Server: c.server.Host, Operation: "asking for /version", Err: errors.New("the answer is not that of an API server")}
	}
	return v.GitVersion, nil
}
