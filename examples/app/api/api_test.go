package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"honeydue.example/app/internal/health"
)

const panel = "https://admin.honeydue.test"

func example(t *testing.T, room int) http.Handler {
	t.Helper()
	handler, err := routes(options{
		health:  &health.State{},
		tasks:   newTasks(room),
		origins: []string{panel},
		version: version{Binary: "sha256:0", Go: "go0"},
		logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return handler
}

func ask(handler http.Handler, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(method, path, strings.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	for pair := range slices.Chunk(headers, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, request)
	return answer
}

func TestThePathsAnswer(t *testing.T) {
	handler := example(t, 1)
	for _, want := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/api/health/", 200},
		{"HEAD", "/api/health/", 200},
		{"POST", "/api/health/", 405},
		{"GET", "/api/health/more", 404},
		{"GET", "/api/version", 200},
		{"GET", "/api/tasks", 200},
		{"DELETE", "/api/tasks", 405},
		{"GET", "/", 200},
		{"HEAD", "/", 200},
		{"GET", "/landing.css", 200},
		{"GET", "/nowhere", 404},
	} {
		if answer := ask(handler, want.method, want.path, ""); answer.Code != want.status {
			t.Errorf("%s %s: %d, want %d", want.method, want.path, answer.Code, want.status)
		}
	}
}

func TestATaskThatWasAddedIsListed(t *testing.T) {
	handler := example(t, 10)
	if body := ask(handler, "GET", "/api/tasks", "").Body.String(); body != "[]\n" {
		t.Fatalf("at first: %s", body)
	}
	made := ask(handler, "POST", "/api/tasks", `{"title": " Change the filter "}`)
	want := `{"id":1,"title":"Change the filter"}`
	if made.Code != 201 || made.Body.String() != want+"\n" {
		t.Fatalf("added: %d %s", made.Code, made.Body)
	}
	if body := ask(handler, "GET", "/api/tasks", "").Body.String(); body != "["+want+"]\n" {
		t.Fatalf("then: %s", body)
	}
}

func TestWhatIsNoTaskIsRefused(t *testing.T) {
	handler := example(t, 1)
	for body, want := range map[string]int{
		``:                                  400,
		`{}`:                                400,
		`{"title": "  "}`:                   400,
		`{"title": 1}`:                      400,
		`{"title": "a", "owner": "b"}`:      400,
		title(strings.Repeat("ä", 201)):     400,
		title(strings.Repeat("a", maxBody)): 413,
	} {
		if answer := ask(handler, "POST", "/api/tasks", body); answer.Code != want {
			t.Errorf("%.40s: %d, want %d", body, answer.Code, want)
		}
	}
	if answer := ask(handler, "POST", "/api/tasks", title("a"), "Content-Type", "text/plain"); answer.Code != 415 {
		t.Errorf("text/plain: %d", answer.Code)
	}
	if answer := ask(handler, "POST", "/api/tasks", title(strings.Repeat("ä", 200))); answer.Code != 201 {
		t.Errorf("200 characters: %d", answer.Code)
	}
	if answer := ask(handler, "POST", "/api/tasks", title("one too many")); answer.Code != 507 {
		t.Errorf("full: %d", answer.Code)
	}
}

func title(text string) string { return fmt.Sprintf(`{"title": %q}`, text) }

func TestTasksThatAreAddedAtOnceAllGetAnIDOfTheirOwn(t *testing.T) {
	const room, wanted = 50, 80
	store := newTasks(room)
	var group sync.WaitGroup
	refused := make(chan error, wanted)
	for range wanted {
		group.Go(func() {
			if _, err := store.add("x"); err != nil {
				refused <- err
			}
		})
	}
	group.Wait()
	close(refused)
	if len(refused) != wanted-room {
		t.Errorf("%d refused, want %d", len(refused), wanted-room)
	}
	for err := range refused {
		if !errors.Is(err, errFull) {
			t.Error(err)
		}
	}
	for index, item := range store.all() {
		if item.ID != index+1 {
			t.Errorf("task %d has the id %d", index+1, item.ID)
		}
	}
}

func TestOnlyTheConfiguredOriginsMayCall(t *testing.T) {
	handler := example(t, 1)
	for origin, want := range map[string]string{panel: panel, "https://evil.test": "", "": ""} {
		answer := ask(handler, "GET", "/api/tasks", "", "Origin", origin)
		if got := answer.Header().Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("origin %q: allowed %q", origin, got)
		}
		if answer.Header().Get("Vary") != "Origin" {
			t.Errorf("origin %q: a cache would mix up origins", origin)
		}
	}
	before := ask(handler, "OPTIONS", "/api/tasks", "", "Origin", panel, "Access-Control-Request-Method", "POST")
	if before.Code != 204 || !strings.Contains(before.Header().Get("Access-Control-Allow-Methods"), "POST") {
		t.Errorf("preflight: %d %v", before.Code, before.Header())
	}
}

func TestTheLandingPageLoadsOnlyWhatItsPolicyAllows(t *testing.T) {
	page, err := fs.ReadFile(landing, "landing/index.html")
	if err != nil {
		t.Fatal(err)
	}
	answer := ask(example(t, 1), "GET", "/", "")
	policy := answer.Header().Get("Content-Security-Policy")
	sheets := regexp.MustCompile(`rel="stylesheet" href="([^"]+)"`).FindAllSubmatch(page, -1)
	if len(sheets) != 2 {
		t.Fatalf("%d style sheets", len(sheets))
	}
	for _, sheet := range sheets {
		address, err := url.Parse(string(sheet[1]))
		if err != nil {
			t.Fatal(err)
		}
		source := "'self'"
		if address.Host != "" {
			source = address.Scheme + "://" + address.Host
		}
		if !slices.Contains(directive(policy, "style-src"), source) {
			t.Errorf("%s is not among %q", source, policy)
		}
	}
	if strings.Contains(string(page), "<style") || strings.Contains(string(page), "<script") {
		t.Error("the policy forbids what stands in the page itself")
	}
}

func directive(policy, name string) []string {
	for part := range strings.SplitSeq(policy, ";") {
		if words := strings.Fields(part); len(words) > 0 && words[0] == name {
			return words[1:]
		}
	}
	return nil
}

func TestASettingIsSplitAtItsCommas(t *testing.T) {
	if got := list(" a,, b "); !slices.Equal(got, []string{"a", "b"}) {
		t.Fatal(got)
	}
	if got := list(""); got != nil {
		t.Fatal(got)
	}
}

func TestTheRunningBinaryKnowsItsOwnDigest(t *testing.T) {
	digest, err := ownDigest()
	if err != nil || !regexp.MustCompile(`^sha256:[0-9a-f]{64}$`).MatchString(digest) {
		t.Fatal(digest, err)
	}
}
