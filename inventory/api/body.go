package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/edge-provision/edge-provision/inventory"
)

// maxBodyBytes bounds what a client may send; the largest is a facts document.
const maxBodyBytes = 1 << 20

// read decodes the request's body.
func (x *exchange) read(into any) error {
	if kind, _, err := mime.ParseMediaType(x.Request.Header.Get("Content-Type")); err != nil || kind != mediaJSON {
		return problem("unsupported-media-type", "Send the body as Content-Type: application/json.").at("Content-Type")
	}
	// A body that trickles in must not hold the request's place among the readers
	// of the catalog for longer than any other.
	control := http.NewResponseController(x.ResponseWriter)
	if err := control.SetReadDeadline(time.Now().Add(x.server.cfg.BodyTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return sent(err)
	}
	raw, err := io.ReadAll(http.MaxBytesReader(x.ResponseWriter, x.Body, maxBodyBytes))
	if _, tooLong := errors.AsType[*http.MaxBytesError](err); tooLong {
		return problem("too-large", "The body has more than %d bytes.", maxBodyBytes)
	}
	if err != nil {
		return problem("invalid-body", "The body could not be read in %s: %v.", x.server.cfg.BodyTimeout, err)
	}
	if err := control.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return sent(err)
	}
	// encoding/json takes the last of a key's values, and puts U+FFFD in the place of
	// what is no UTF-8: what is written then would not be what somebody has checked.
	if !utf8.Valid(raw) {
		return problem("invalid-body", "The body is not valid UTF-8.")
	}
	if !bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) {
		return problem("invalid-body", "The body is no JSON object.")
	}
	if err := inventory.CheckKeys(raw, 1); err != nil {
		return problem("invalid-body", "The body is not the JSON that is wanted: %v.", err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return problem("invalid-body", "The body is not the JSON that is wanted: %v.", err)
	}
	return nil
}
