// admin: honeyDue's admin panel, as an example: static files that are part of the binary.
package main

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"honeydue.example/app/internal/health"
	"honeydue.example/app/internal/service"
	"honeydue.example/app/internal/web"
)

//go:embed panel
var panel embed.FS

func main() { service.Main("admin", run) }

func run(ctx context.Context, logger *slog.Logger) error {
	port, err := service.Port(os.Getenv, 3000)
	if err != nil {
		return err
	}
	api, err := origin(os.Getenv("NEXT_PUBLIC_API_URL"))
	if err != nil {
		return err
	}
	handler, err := routes(api, logger)
	if err != nil {
		return err
	}
	// All addresses, unless HOST names one: a rehearsal listens on loopback only.
	listener, err := net.Listen("tcp", net.JoinHostPort(os.Getenv("HOST"), strconv.Itoa(port)))
	if err != nil {
		return err
	}
	// The probe asks for the panel itself, so the drain needs no health page of its own here.
	return web.Serve(ctx, listener, handler, &health.State{}, web.DrainTime, logger)
}

// origin is the scheme and host of the API, or "" where none is configured.
func origin(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	address, err := url.Parse(text)
	if err != nil || address.Host == "" || (address.Scheme != "https" && address.Scheme != "http") {
		return "", fmt.Errorf("NEXT_PUBLIC_API_URL=%q is no address: write https://api.example.com", text)
	}
	return address.Scheme + "://" + address.Host, nil
}

// routes is the panel, and the one thing that differs between two productions: where the API is.
func routes(api string, logger *slog.Logger) (http.Handler, error) {
	files, err := fs.Sub(panel, "panel")
	if err != nil {
		return nil, err
	}
	static, err := web.Static(files)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", static)
	mux.HandleFunc("GET /config.json", func(w http.ResponseWriter, _ *http.Request) {
		web.JSON(w, http.StatusOK, map[string]string{"api": api})
	})
	csp := "default-src 'self'; base-uri 'none'; frame-ancestors 'none'; connect-src 'self'"
	if api != "" {
		csp += " " + api
	}
	return web.Log(logger, "/", web.Headers(csp, mux)), nil
}
