//go:build e2e

package dashboard_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

var screenshots = flag.String("screenshots", "", "folder to write docs' screenshots to; empty: they are taken and thrown away")

// patience bounds every wait for the page. It is long because the browser shares
// two cores with whatever else is tested.
const patience = 30 * time.Second

// browser is a real Chromium. All that it would ask of the network goes to a
// proxy of the test that answers nobody and remembers.
type browser struct {
	ctx context.Context

	mu      sync.Mutex
	outside []string // what was asked of the proxy
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("the dashboard is tested in a real browser, and Debian's package chromium is not installed: run `make setup`")
	}
	b := &browser{}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.outside = append(b.outside, r.Method+" "+r.Host+r.URL.Path)
		w.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(proxy.Close)
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(program), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.WSURLReadTimeout(patience),
		// Chromium bypasses proxies for loopback by itself.
		chromedp.Flag("proxy-server", proxy.URL),
	}
	for _, name := range []string{
		"headless", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync",
		"no-default-browser-check", "disable-default-apps", "disable-extensions", "disable-domain-reliability", "disable-breakpad", "metrics-recording-only",
		"hide-scrollbars", "mute-audio", "disable-dev-shm-usage",
	} {
		options = append(options, chromedp.Flag(name, true))
	}
	options = append(options,
		chromedp.Flag("password-store", "basic"),
		chromedp.Flag("force-color-profile", "srgb"),
		chromedp.Flag("disable-features", "Translate,OptimizationHints,MediaRouter,DialMediaRouteProvider,CertificateTransparencyComponentUpdater,AutofillServerCommunication"))
	allocator, stop := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	ctx, end := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		end()
		stop()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("starting %s: %v", program, err)
	}
	b.ctx = ctx
	return b
}

// vendor is where Chromium calls home by itself, whatever page it shows.
var vendor = regexp.MustCompile(`^[A-Z]+ [a-z0-9.-]+\.(google|googleapis|gstatic)\.com[:/]`)

// nothingLeft fails when something beyond this host was asked for. The proxy has
// refused it, so it did not leave; Chromium's own calls home are no fault of the
// page, whose requests are checked one by one in hear.
func (b *browser) nothingLeft(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	home := 0
	for _, r := range b.outside {
		if vendor.MatchString(r) {
			home++
			continue
		}
		t.Errorf("something asked for %s; want nothing beyond loopback", r)
	}
	t.Logf("Chromium called home %d times and got no answer", home)
}

// page is one tab.
type page struct {
	*testing.T
	ctx  context.Context
	base string

	mu       sync.Mutex
	mistakes []string
	// expected are parts of messages that are no mistakes: a browser notes each
	// answer of 400 as an error.
	expected []string
}

// open opens the dashboard in a new tab. When the test ends, the tab must have
// logged no error but the expected, and asked nobody but the dashboard's server.
func (b *browser) open(t *testing.T, base, path string, expected ...string) *page {
	t.Helper()
	ctx, end := chromedp.NewContext(b.ctx)
	p := &page{T: t, ctx: ctx, base: base, expected: expected}
	t.Cleanup(func() {
		end()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, m := range p.mistakes {
			t.Errorf("the page: %s", m)
		}
	})
	if err := chromedp.Listen(ctx, p.hear); err != nil {
		t.Fatal(err)
	}
	p.do(chromedp.EmulateViewport(1360, 850))
	call(p, cdplog.Enable, cdp.Empty{})
	call(p, network.Enable, network.EnableParams{})
	p.do(chromedp.Navigate(base + "/" + path))
	return p
}

// call sends a command of the DevTools protocol to the tab.
func call[P, R any](p *page, command cdp.Command[P, R], parameters P) R {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	out, err := chromedp.Run(ctx, func(ctx context.Context, t *chromedp.Target) (R, error) {
		return cdp.Call(ctx, t, command, parameters)
	})
	if err != nil {
		p.Fatalf("%s: %v", command.Method, err)
	}
	return out
}

// hear notes what a page must not do.
func (p *page) hear(ev any) {
	var text string
	switch e := ev.(type) {
	case *runtime.EventExceptionThrown:
		text = "exception: " + e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			text += " " + e.ExceptionDetails.Exception.Description
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == "error" || e.Type == "warning" {
			text = "console." + string(e.Type)
			for _, a := range e.Args {
				text += " " + string(a.Value) + a.Description
			}
		}
	case *cdplog.EventEntryAdded:
		if e.Entry.Level == "error" || e.Entry.Level == "warning" {
			text = fmt.Sprintf("log: %s %s", e.Entry.Text, e.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		u, err := url.Parse(e.Request.URL)
		if host := ""; err == nil && (u.Scheme == "http" || u.Scheme == "https" || u.Scheme == "ws" || u.Scheme == "wss") {
			if host, _, err = net.SplitHostPort(u.Host); err != nil || !net.ParseIP(host).IsLoopback() {
				text = "request to " + e.Request.URL
			}
		}
	}
	if text == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, part := range p.expected {
		if strings.Contains(text, part) {
			return
		}
	}
	p.mistakes = append(p.mistakes, text)
}

func (p *page) expect(part string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected = append(p.expected, part)
}

func (p *page) do(actions ...chromedp.Action[chromedp.Void]) {
	p.Helper()
	if err := chromedp.Do(p.ctx, actions...); err != nil {
		p.Fatal(err)
	}
}

// value evaluates an expression of JavaScript in the page.
func value[T any](p *page, expression string) T {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.Fatalf("%s: %v", expression, err)
	}
	return v
}

// until waits for an expression to become true. The page's policy allows no code
// from strings, so the loop is evaluated by the debugger.
func (p *page) until(what, expression string) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	loop := fmt.Sprintf(`(async () => {
		const end = performance.now() + %d;
		while (performance.now() < end) {
			if (%s) return true;
			await new Promise((r) => setTimeout(r, 20));
		}
		return false;
	})()`, (patience - 5*time.Second).Milliseconds(), expression)
	ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool](loop, chromedp.EvalAwaitPromise))
	if err != nil || !ok {
		text, _ := chromedp.Run(p.ctx, chromedp.Evaluate[string]("document.body.innerText"))
		p.Fatalf("waiting for %s (%s): %v; the page says:\n%s", what, expression, err, text)
	}
}

// keys types into whatever has the focus. Enter is one event with its character,
// as from a keyboard: a page that takes the key keeps the character from a form.
func (p *page) keys(text string) {
	p.Helper()
	for part := range strings.SplitAfterSeq(text, kb.Enter) {
		rest, enter := strings.CutSuffix(part, kb.Enter)
		p.do(chromedp.KeyEvent(rest))
		if enter {
			p.press("Enter", "Enter", kb.Enter, 0x0D)
		}
	}
}

// press sends a key with its character; code is the virtual key code of Windows,
// by which Chromium knows keys.
func (p *page) press(key, name, text string, code int64) {
	p.Helper()
	call(p, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: "keyDown", Key: key, Code: name, Text: text, WindowsVirtualKeyCode: code})
	call(p, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: "keyUp", Key: key, Code: name, WindowsVirtualKeyCode: code})
}

// searchFor goes to the search box by its key and types.
func (p *page) searchFor(text string) {
	p.Helper()
	p.press("/", "Slash", "/", 0xBF)
	if got := value[string](p, `document.activeElement.id + ":" + document.activeElement.value`); got != "search:" {
		p.Fatalf("after / the focus is on %s; want the empty search box", got)
	}
	p.keys(text)
}

// theme makes the page think that its reader prefers light or dark.
func (p *page) theme(name string) {
	p.Helper()
	call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: name}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}})
}

// picture takes a screenshot of what is seen, of a given height.
func (p *page) picture(name string, height int64) {
	p.Helper()
	p.do(chromedp.EmulateViewport(1360, height))
	p.until("the layout to settle", "document.fonts.status === 'loaded'")
	value[bool](p, "new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(() => r(true))))")
	raw, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		p.Fatal(err)
	}
	if len(raw) < 10_000 {
		p.Errorf("the screenshot %s has %d bytes; want a picture of a page with something on it", name, len(raw))
	}
	if *screenshots == "" {
		return
	}
	if raw, err = inFewColours(raw); err != nil {
		p.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*screenshots, name), raw, 0o644); err != nil {
		p.Fatal(err)
	}
}

// serve answers on loopback until the test ends.
func serve(t *testing.T, run func(context.Context, net.Listener) error) (base string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}
