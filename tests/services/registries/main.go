// Two registries that are not distribution, of the libraries that Debian has: each keeps everything in memory.
//
//	registries KIND [-referrers=false] [-posts=false]
//
// KIND is `cue`, of the CUE project's ociregistry, which keeps what came of an upload that was cut; or `ggcr`, that of
// Google's go-containerregistry, which crane serves. The address is the first line of standard output.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	flags := flag.NewFlagSet(os.Args[0], flag.ExitOnError)
	referrers := flags.Bool("referrers", true, "know the referrers API")
	posts := flags.Bool("posts", true, "take a blob in one POST (cue)")
	if len(os.Args) < 2 {
		log.Fatal("registries cue|ggcr [-referrers=false] [-posts=false]")
	}
	flags.Parse(os.Args[2:])
	handler := handlerOf(os.Args[1], *referrers, *posts)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	log.Fatal(http.Serve(listener, handler))
}

func handlerOf(kind string, referrers bool, posts bool) http.Handler {
	switch kind {
	case "cue":
		options := ociserver.Options{DisableReferrersAPI: !referrers, DisableSinglePostUpload: !posts}
		return ociserver.New(ocimem.New(), &options)
	case "ggcr":
		quiet := registry.Logger(log.New(io.Discard, "", 0))
		return registry.New(quiet, registry.WithReferrersSupport(referrers))
	}
	log.Fatalf("no registry is called %q", kind)
	return nil
}
