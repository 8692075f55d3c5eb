package web

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"honeydue.example/app/internal/health"
)

// serving runs Serve on a port of its own; the channel gets what it returns.
func serving(t *testing.T, handler http.Handler, drain time.Duration) (string, *health.State, context.CancelFunc, <-chan error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	state := &health.State{}
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, listener, handler, state, drain, slog.New(slog.DiscardHandler))
	}()
	return "http://" + listener.Addr().String(), state, cancel, ended
}

func TestARequestThatIsUnderWayIsFinishedBeforeTheServiceEnds(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	address, state, cancel, ended := serving(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-finish
		_, _ = io.WriteString(w, "whole")
	}), time.Minute)

	answered := make(chan string, 1)
	go func() {
		answer, err := http.Get(address)
		if err != nil {
			answered <- err.Error()
			return
		}
		defer answer.Body.Close()
		body, _ := io.ReadAll(answer.Body)
		answered <- string(body)
	}()
	<-begun
	cancel()
	// The listener closes first; only then is "nothing new is accepted" a fact.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		connection, err := net.Dial("tcp", strings.TrimPrefix(address, "http://"))
		if err != nil {
			break
		}
		connection.Close()
		if time.Now().After(deadline) {
			t.Fatal("still accepting connections")
		}
	}
	probe := httptest.NewRecorder()
	state.ServeHTTP(probe, httptest.NewRequest("GET", "/", nil))
	if probe.Code != 503 {
		t.Errorf("health while draining: %d", probe.Code)
	}
	select {
	case err := <-ended:
		t.Fatalf("ended before the request did: %v", err)
	default:
	}
	close(finish)
	if body := <-answered; body != "whole" {
		t.Errorf("the request got %q", body)
	}
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestARequestThatTakesTooLongMakesTheEndAnError(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	address, _, cancel, ended := serving(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(begun)
		<-finish
	}), 10*time.Millisecond)
	t.Cleanup(func() { close(finish) })
	go func() {
		if answer, err := http.Get(address); err == nil {
			answer.Body.Close()
		}
	}()
	<-begun
	cancel()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "cut off after 10ms") {
		t.Fatalf("ended with %v", err)
	}
}

func TestEveryAnswerCarriesTheSecurityHeaders(t *testing.T) {
	answer := httptest.NewRecorder()
	Headers("default-src 'self'", http.NotFoundHandler()).
		ServeHTTP(answer, httptest.NewRequest("GET", "/nowhere", nil))
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'self'",
		"X-Content-Type-Options":  "nosniff",
	} {
		if got := answer.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestTheLogHasEachRequestOnceAndNeitherProbesNorQueries(t *testing.T) {
	var log bytes.Buffer
	handler := Log(slog.New(slog.NewJSONHandler(&log, nil)), "/probe", http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/probe" {
				w.WriteHeader(http.StatusTeapot)
			}
		}))
	for _, target := range []string{"/probe", "/tea?token=canary"} {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", target, nil))
	}
	var line struct {
		Path   string
		Status int
	}
	if err := json.Unmarshal(log.Bytes(), &line); err != nil { // also fails on a second line
		t.Fatalf("%v: %s", err, &log)
	}
	if line.Path != "/tea" || line.Status != http.StatusTeapot || strings.Contains(log.String(), "canary") {
		t.Fatalf("logged %s", &log)
	}
}

func TestStaticFilesAreServedByContentAndFoldersAreNotListed(t *testing.T) {
	handler, err := Static(fstest.MapFS{
		"index.html":    {Data: []byte("<p>hello")},
		"deep/file.css": {Data: []byte("p{}")},
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path, tag string) *httptest.ResponseRecorder {
		request := httptest.NewRequest(method, path, nil)
		if tag != "" {
			request.Header.Set("If-None-Match", tag)
		}
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		return answer
	}
	first := ask("GET", "/", "")
	if first.Code != 200 || first.Body.String() != "<p>hello" {
		t.Fatalf("GET /: %d %q", first.Code, first.Body)
	}
	if head := ask("HEAD", "/", ""); head.Code != 200 || head.Body.Len() != 0 {
		t.Errorf("HEAD /: %d %q", head.Code, head.Body)
	}
	if again := ask("GET", "/", first.Header().Get("ETag")); again.Code != 304 {
		t.Errorf("unchanged: %d", again.Code)
	}
	for path, want := range map[string]int{"/deep/file.css": 200, "/deep/": 404, "/none": 404, "/../go.mod": 404} {
		if answer := ask("GET", path, ""); answer.Code != want {
			t.Errorf("GET %s: %d, want %d", path, answer.Code, want)
		}
	}
}
