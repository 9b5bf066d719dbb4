// Package dashboard is the page for the one who is woken at night: what is wrong, why, and the button that mends it. It is HTML,
// CSS and JavaScript without a build step, inside the binary, and knows of the relay only what the API tells its reader.
package dashboard

import (
	"bytes"
	"embed"
	"io/fs"
	"net/http"
	"path"
	"time"
)

//go:embed assets
var assets embed.FS

const index = "index.html"

// types are the media types by the end of the name; what the machine has configured otherwise does not count.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// policy lets the page load what the relay itself serves and ask the relay's API, and nothing else. Events hold foreign text: even
// if some became markup it could not run, and with trusted types no text can become markup.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; " +
	"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// Handler serves the page at / and its parts at /dashboard/; the names of both are relative in the page, so that it works under
// any path of a proxy.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { serve(w, r, index) })
	mux.HandleFunc("GET /dashboard/{file}", func(w http.ResponseWriter, r *http.Request) {
		if name := r.PathValue("file"); name != index {
			serve(w, r, name)
			return
		}
		http.NotFound(w, r)
	})
	return mux
}

func serve(w http.ResponseWriter, r *http.Request, name string) {
	text, err := fs.ReadFile(assets, path.Join("assets", name))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", types[path.Ext(name)])
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Frame-Options", "DENY") // for browsers that do not know frame-ancestors
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
}
