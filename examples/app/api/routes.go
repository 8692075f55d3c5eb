package main

import (
	"embed"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"mime"
	"net/http"
	"slices"

	"honeydue.example/app/internal/health"
	"honeydue.example/app/internal/web"
)

//go:embed landing
var landing embed.FS

// csp lets the landing page load its fonts, and nothing else from elsewhere: with 'none' the browser
// showed it unstyled. The style sheet is googleapis' and the fonts that it names are gstatic's.
const csp = "default-src 'self'; style-src 'self' https://fonts.googleapis.com; " +
	"font-src 'self' https://fonts.gstatic.com; base-uri 'none'; frame-ancestors 'none'"

const healthPath = "/api/health/"

// maxBody bounds a request's body, in bytes.
const maxBody = 16 << 10

type version struct {
	Binary string `json:"binary"` // sha256 of the running file
	Go     string `json:"go"`
}

type options struct {
	health  *health.State
	tasks   *tasks
	origins []string // whose scripts may call: CORS_ALLOWED_ORIGINS
	version version
	logger  *slog.Logger
}

// routes is the whole API. A pattern with GET answers HEAD too; other methods get 405.
func routes(o options) (http.Handler, error) {
	pages, err := fs.Sub(landing, "landing")
	if err != nil {
		return nil, err
	}
	static, err := web.Static(pages)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+healthPath+"{$}", o.health)
	mux.HandleFunc("GET /api/version", func(w http.ResponseWriter, _ *http.Request) {
		web.JSON(w, http.StatusOK, o.version)
	})
	mux.HandleFunc("GET /api/tasks", func(w http.ResponseWriter, _ *http.Request) {
		web.JSON(w, http.StatusOK, o.tasks.all())
	})
	mux.HandleFunc("POST /api/tasks", func(w http.ResponseWriter, r *http.Request) {
		addTask(o.tasks, w, r)
	})
	mux.Handle("GET /{$}", static)
	mux.Handle("GET /landing.css", static)
	return web.Log(o.logger, healthPath, web.Headers(csp, cors(o.origins, mux))), nil
}

// addTask takes {"title": "…"} and answers with the task that was made of it.
func addTask(to *tasks, w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, why string) { web.JSON(w, status, map[string]string{"error": why}) }

	// A form on another site can send text/plain without being asked about it first, JSON it cannot.
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		refuse(http.StatusUnsupportedMediaType, "Content-Type must be application/json")
		return
	}
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	body.DisallowUnknownFields()
	var wanted struct {
		Title string `json:"title"`
	}
	if err := body.Decode(&wanted); err != nil {
		if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
			refuse(http.StatusRequestEntityTooLarge, "the body is too long")
			return
		}
		refuse(http.StatusBadRequest, `the body must be {"title": "…"}`)
		return
	}
	made, err := to.add(wanted.Title)
	switch {
	case errors.Is(err, errFull):
		refuse(http.StatusInsufficientStorage, err.Error())
	case err != nil:
		refuse(http.StatusBadRequest, err.Error())
	default:
		web.JSON(w, http.StatusCreated, made)
	}
}

// cors lets scripts of the given origins call, and answers their browsers' question beforehand.
func cors(origins []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Add("Vary", "Origin")
		origin := r.Header.Get("Origin")
		if !slices.Contains(origins, origin) {
			next.ServeHTTP(w, r)
			return
		}
		header.Set("Access-Control-Allow-Origin", origin)
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			header.Set("Access-Control-Allow-Methods", "GET, POST")
			header.Set("Access-Control-Allow-Headers", "Content-Type")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}
