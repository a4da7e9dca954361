// fasthttp, bound to one CPU by its affinity (the Go runtime sizes itself by that).
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// version is set by the linker: the Debian package's.
var version = "of unknown version"

func main() {
	if len(os.Args) < 2 || os.Args[1] == "--version" {
		fmt.Printf("fasthttp %s, %s\n", version, runtime.Version())
		return
	}
	server := &fasthttp.Server{
		Handler:     answer,
		IdleTimeout: 300 * time.Second,
		Concurrency: 20000,
	}
	if err := server.ListenAndServe("127.0.0.1:" + os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type user struct {
	ID   uint32 `json:"id"`
	Name string `json:"name"`
}

func answerUser(ctx *fasthttp.RequestCtx, text string) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil || id == 0 {
		ctx.SetStatusCode(fasthttp.StatusNotFound)
		return
	}
	body, err := json.Marshal(user{uint32(id), "user " + text})
	if err != nil {
		ctx.SetStatusCode(fasthttp.StatusInternalServerError)
		return
	}
	ctx.SetContentType("application/json")
	ctx.SetBody(body)
}

func answer(ctx *fasthttp.RequestCtx) {
	if path := string(ctx.Path()); strings.HasPrefix(path, "/users/") {
		answerUser(ctx, strings.TrimPrefix(path, "/users/"))
		return
	}
	if string(ctx.Path()) != "/hello" {
		ctx.SetStatusCode(fasthttp.StatusNotFound)
		return
	}
	ctx.SetContentType("text/plain")
	ctx.SetBodyString("Hello, World!")
}
