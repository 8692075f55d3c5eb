package web

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"time"
)

// Headers sets what every answer carries. csp is the Content-Security-Policy.
func Headers(csp string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", csp)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "strict-origin-when-cross-origin")
		next.ServeHTTP(w, r)
	})
}

// Log writes one line for each request but the probes', which would be most of the log.
// A query string is never logged: people put tokens there.
func Log(logger *slog.Logger, probe string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := &observed{ResponseWriter: w, status: http.StatusOK}
		begun := time.Now()
		next.ServeHTTP(seen, r)
		if r.URL.Path == probe && seen.status == http.StatusOK {
			return
		}
		logger.Info("request", "method", r.Method, "path", r.URL.Path, "status", seen.status,
			"ms", time.Since(begun).Milliseconds())
	})
}

// observed remembers the status that was answered.
type observed struct {
	http.ResponseWriter
	status int
}

func (o *observed) WriteHeader(status int) {
	o.status = status
	o.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach what is underneath.
func (o *observed) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// JSON answers with value. What cannot be marshalled is a mistake in the program, hence the panic,
// which net/http logs and turns into a closed connection.
func JSON(w http.ResponseWriter, status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // whoever asked has gone: nothing is left to tell them
}
