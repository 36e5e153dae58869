//go:build e2e

package scenario

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// serviceManifest is three replicas, one on each server, of which two have to be
// there, behind a service. Its pods are as the restricted pod security of the cis
// profile wants them. The image is one of those that come with K3s.
const serviceManifest = `apiVersion: apps/v1
kind: Deployment
metadata: {name: till}
spec:
  replicas: 3
  selector: {matchLabels: {app: till}}
  template:
    metadata: {labels: {app: till}}
    spec:
      terminationGracePeriodSeconds: 5
      securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: till}}}
      containers:
      - name: till
        image: ` + busyBox + `
        imagePullPolicy: Never
        command: [sh, -c, "trap 'sleep 3; exit 0' TERM; echo open >/www/index.html; httpd -f -p 8080 -h /www & wait"]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
        volumeMounts: [{name: www, mountPath: /www}]
      volumes: [{name: www, emptyDir: {}}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: till}
spec: {minAvailable: 2, selector: {matchLabels: {app: till}}}
---
apiVersion: v1
kind: Service
metadata: {name: till}
spec: {selector: {app: till}, ports: [{port: 80, targetPort: 8080}]}
`

// requestLimit is how long a client waits for an answer, in clientScript.
const requestLimit = 2 * time.Second

// clientScript asks the service ten times a second, each time over a new
// connection, and writes down when and whether it was answered.
const clientScript = `while :; do
  t=$(date +%s.%N)
  if timeout 2 bash -c 'exec 3<>/dev/tcp/'"$1"'/80 && printf "GET / HTTP/1.0\r\n\r\n" >&3 && grep -q open <&3' 2>/dev/null; then echo "$t ok"; else echo "$t failed"; fi
  sleep 0.1
done >/root/requests`

// serve starts the service and a client of it on each host.
func (c *cluster) serve() {
	c.t.Helper()
	c.on(0, "cat >/root/till.yaml <<'EOF'\n"+serviceManifest+"EOF\nk3s kubectl apply -f /root/till.yaml && k3s kubectl rollout status deployment/till --timeout=120s")
	address := c.on(0, "k3s kubectl get service till -o jsonpath='{.spec.clusterIP}'")
	for i := range c.lab.Hosts {
		c.on(i, "cat >/root/client.sh <<'EOF'\n"+clientScript+"\nEOF\nsystemd-run --quiet --unit=client bash /root/client.sh "+address)
	}
}

// phase is a moment of an upgrade at which connections may break.
type phase struct {
	at   time.Time
	what string
	host int
}

var phaseLine = regexp.MustCompile(`^(machine\.\S+): (draining node|evicting pod|starting K3s|node \S+ is ready)`)

// upgraded applies and returns the phases that apply reported.
func (c *cluster) upgraded() []phase {
	c.t.Helper()
	var out []phase
	c.want(0, c.watched(func(l line, _ *os.Process) {
		if m := phaseLine.FindStringSubmatch(l.Message); m != nil {
			out = append(out, phase{at: l.Time, what: m[2], host: slices.Index(c.machines, m[1])})
		}
	}))
	return out
}

// grace is how long after a drain or a restart new connections may fail: until
// every node's packet filter knows of it, which is before the evicted pod ends.
const grace = 2500 * time.Millisecond

// served reads what the clients saw while phases passed, prints every failure,
// and demands that each is on the node that was being changed or follows a drain
// or restart at once.
func (c *cluster) served(ps []phase) {
	c.t.Helper()
	for i, h := range c.lab.Hosts {
		// A polite stop waits for a request that may wait for its time limit. A
		// client that is not there any more has not asked all the time.
		c.on(i, "systemctl is-active client && systemctl kill --signal=KILL client")
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
		b, err := c.lab.Exec(ctx, i, "cat", "/root/requests")
		cancel()
		if err != nil {
			c.t.Fatal(err)
		}
		asked, failed := 0, 0
		for line := range strings.Lines(string(b)) {
			stamp, how, _ := strings.Cut(strings.TrimSpace(line), " ")
			seconds, err := strconv.ParseFloat(stamp, 64)
			if err != nil {
				continue
			}
			asked++
			if how == "ok" {
				continue
			}
			failed++
			at := time.UnixMicro(int64(seconds * 1e6))
			last := phase{what: "nothing yet", host: -1}
			for _, p := range ps {
				if !p.at.After(at.Add(requestLimit)) {
					last = p
				}
			}
			since := at.Sub(last.at)
			c.t.Logf("a request on %s failed at %s, %.1f s after: %s on host %d", h.Name, at.Format("15:04:05.0"), since.Seconds(), last.what, last.host+1)
			busy := last.host == i && last.what != fmt.Sprintf("node %s is ready", h.Name)
			if last.host < 0 || !busy && since > grace {
				c.t.Errorf("a request on %s failed %.1f s after the last drain or restart; want none after %s", h.Name, since.Seconds(), grace)
			}
		}
		c.t.Logf("%s: %d of %d requests failed", h.Name, failed, asked)
		if asked < 100 {
			c.t.Errorf("the client on %s asked %d times; want it to ask all the time", h.Name, asked)
		}
		c.on(i, "rm -f /root/requests /root/client.sh /root/till.yaml")
	}
	if len(ps) < 3*len(c.lab.Hosts) {
		c.t.Errorf("apply reported %d phases; want a drain with its evictions, a start and an end of each node", len(ps))
	}
}
