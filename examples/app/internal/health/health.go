// Package health answers "may requests be sent here?", which is what a readiness probe asks.
package health

import (
	"io"
	"net/http"
	"sync/atomic"
)

// State of one process. The zero value is healthy.
type State struct{ draining atomic.Bool }

// Drain is called once, when the process has been told to end: it takes no new work from then on.
func (s *State) Drain() { s.draining.Store(true) }

// ServeHTTP answers 200 while requests are welcome and 503 once they are not.
func (s *State) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	status, body := http.StatusOK, `{"status":"ok"}`
	if s.draining.Load() {
		status, body = http.StatusServiceUnavailable, `{"status":"draining"}`
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body+"\n") // whoever asked has gone: nothing is left to tell them
}
