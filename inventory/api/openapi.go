package api

import (
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/schema"
)

// object is a JSON object of the document.
type object = schema.Object

// formats are the schemas of types whose values are a few words.
var formats = map[reflect.Type]object{
	reflect.TypeFor[inventory.State](): {"type": "string", "enum": states},
	reflect.TypeFor[inventory.LeaseState](): {"type": "string", "enum": []inventory.LeaseState{
		inventory.LeaseActive, inventory.LeaseReleased, inventory.LeaseDeclined,
	}},
	reflect.TypeFor[inventory.ReactionState](): {"type": "string", "enum": inventory.ReactionStates()},
	reflect.TypeFor[resource.Role]():           {"type": "string", "enum": resource.Roles()},
}

// openAPI describes the routes as OpenAPI 3.1 has it
// (https://spec.openapis.org/oas/v3.1.1.html).
func openAPI(routes []route, version string) ([]byte, error) {
	s := &schema.Set{Refs: "#/components/schemas/", Formats: formats}
	for _, r := range routes {
		if slices.ContainsFunc(r.params, func(p param) bool { return p.name == "fields" }) {
			s.MayBePartial(reflect.TypeOf(r.reply))
		}
	}
	if version == "" {
		version = "0.0.0-dev"
	}
	paths := map[string]object{}
	for _, r := range routes {
		if paths[r.path] == nil {
			paths[r.path] = object{}
		}
		paths[r.path][strings.ToLower(r.method)] = operation(s, r)
	}
	// The streams of the watches carry these beside what the reply names.
	for _, v := range []any{resource.Removed{}, resource.Reset{}, resource.Synced{}} {
		s.Of(reflect.TypeOf(v))
	}
	return encode(object{
		"openapi": "3.1.0",
		"info": object{
			"title": "edge-provision", "version": version,
			"description": "The catalog of machines of an edge-provision controller. Fields may be added within v1; ignore what you do not know. " +
				"A token goes into `Authorization: Bearer TOKEN`; over loopback reading may need none.",
		},
		"servers": []object{{"url": "/"}},
		"paths":   paths,
		"components": object{
			"schemas":         s.Components,
			"securitySchemes": object{"token": object{"type": "http", "scheme": "bearer", "description": "made by `edge-provision token create`"}},
		},
	})
}

func operation(s *schema.Set, r route) object {
	op := object{"operationId": r.id, "summary": r.summary, "tags": []string{r.tag}, "responses": responses(s, r)}
	if r.detail != "" {
		op["description"] = r.detail
	}
	var params []object
	for _, p := range r.params {
		params = append(params, parameter(p))
	}
	if r.etag {
		params = append(params, header("If-None-Match", false, "the ETag of an earlier answer; 304 says that it still holds"))
	}
	if r.match != matchNone {
		params = append(params, header("If-Match", r.match == matchRequired, "the ETag of what was read; 412 says that it has changed since"))
	}
	if r.idempotent {
		params = append(params, header("Idempotency-Key", true, "1 to 128 printable ASCII characters, new for each thing to be done; a request that is repeated with it is not carried out twice"))
	}
	if params != nil {
		op["parameters"] = params
	}
	if r.body != nil {
		op["requestBody"] = object{"required": true, "content": object{mediaJSON: object{"schema": s.Of(reflect.TypeOf(r.body))}}}
	}
	op["security"] = []object{}
	if r.need != resource.RolePublic {
		op["security"] = []object{{"token": []string{}}}
		op["x-role"] = r.need
	}
	return op
}

func header(name string, required bool, summary string) object {
	return object{"name": name, "in": "header", "required": required, "description": summary, "schema": object{"type": "string"}}
}

func parameter(p param) object {
	value := object{"type": "string"}
	switch p.kind {
	case number:
		value = object{"type": "integer", "minimum": 0}
	case moment:
		value["format"] = "date-time"
	}
	if len(p.enum) > 0 {
		value["enum"] = p.enum
	}
	in := p.in
	if in == "" {
		in = "query"
	}
	out := object{"name": p.name, "in": in, "required": in == "path", "description": p.summary, "schema": value}
	if p.example != "" {
		out["example"] = p.example
		if p.kind == number {
			if n, err := strconv.Atoi(p.example); err == nil {
				out["example"] = n
			}
		}
	}
	return out
}

// commonProblems are those of every route, and of every one that needs a role.
var (
	commonProblems = []string{"unknown-parameter", "invalid-parameter", "cross-origin", "wrong-host", "internal", "too-long"}
	roleProblems   = []string{"no-token", "invalid-token", "forbidden", "busy", "full"}
)

func responses(s *schema.Set, r route) object {
	status := r.status
	if status == 0 {
		status = http.StatusOK
	}
	success := object{"description": http.StatusText(status)}
	if r.reply != nil {
		media := r.media
		if media == "" {
			media = mediaJSON
		}
		body := s.Of(reflect.TypeOf(r.reply))
		if r.watch {
			success["description"] = "A stream of events whose data is, by their type, what the description names."
			body = object{"type": "string"}
			s.Of(reflect.TypeOf(r.reply))
		}
		success["content"] = object{media: object{"schema": body}}
	}
	if r.etag || r.tagged {
		success["headers"] = sends("ETag", "entity tag of this answer")
	}
	if r.idempotent {
		success["headers"] = sends("Location", "path of the operation")
	}
	out := object{strconv.Itoa(status): success}
	if r.otherwise != 0 {
		out[strconv.Itoa(r.otherwise)] = object{"description": r.detail, "content": success["content"]}
	}
	if r.etag {
		out["304"] = object{"description": "It is as it was in the answer with this ETag."}
	}
	names := slices.Concat(commonProblems, r.problems)
	if r.need != resource.RolePublic {
		names = append(names, roleProblems...)
	}
	byStatus := map[int][]string{}
	for _, t := range problemTypes {
		if slices.Contains(names, t.Name) {
			byStatus[t.Status] = append(byStatus[t.Status], t.Name+": "+t.Title)
		}
	}
	for status, titles := range byStatus {
		refusal := object{
			"description": strings.Join(titles, "; "),
			"content":     object{mediaProblem: object{"schema": s.Of(reflect.TypeFor[resource.Problem]())}},
		}
		if status == http.StatusServiceUnavailable {
			refusal["headers"] = sends("Retry-After", "seconds after which to ask again")
		}
		out[strconv.Itoa(status)] = refusal
	}
	return out
}

// sends describes a header of an answer.
func sends(name, summary string) object {
	return object{name: object{"description": summary, "schema": object{"type": "string"}}}
}
