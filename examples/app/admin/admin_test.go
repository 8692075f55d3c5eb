package main

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestThePanelIsAtTheRootAndNowhereElse(t *testing.T) {
	handler, err := routes("https://api.honeydue.test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 200},
		{"HEAD", "/", 200},
		{"POST", "/", 405},
		{"GET", "/panel.js", 200},
		{"GET", "/panel.css", 200},
		{"GET", "/config.json", 200},
		{"GET", "/admin/", 404},
	} {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(want.method, want.path, nil))
		if answer.Code != want.status {
			t.Errorf("%s %s: %d, want %d", want.method, want.path, answer.Code, want.status)
		}
		policy := answer.Header().Get("Content-Security-Policy")
		if !strings.HasSuffix(policy, "connect-src 'self' https://api.honeydue.test") {
			t.Errorf("%s: the panel may not ask the API: %q", want.path, policy)
		}
	}
}

func TestTheAddressOfTheAPIBecomesAnOrigin(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "",
		"https://api.honeydue.test":      "https://api.honeydue.test",
		"https://api.honeydue.test/":     "https://api.honeydue.test",
		"http://127.0.0.1:8000/api/v1/x": "http://127.0.0.1:8000",
	} {
		if got, err := origin(text); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"api.honeydue.test", "ftp://api.honeydue.test", "https://", "://"} {
		if _, err := origin(text); err == nil || !strings.Contains(err.Error(), "NEXT_PUBLIC_API_URL") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
