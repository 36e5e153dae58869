package chart

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

// release is a minor version of Kubernetes.
type release struct{ major, minor int }

func (r release) before(other release) bool {
	return r.major < other.major || r.major == other.major && r.minor < other.minor
}

// closedBetas is the first release whose new beta APIs nobody is served who does not
// ask for them (KEP-3136, "Beta APIs Are Off by Default").
var closedBetas = release{1, 24}

// builtin are the kinds that an API server of a version serves by itself, as Helm asks
// a real one for them (pkg/action, GetVersionSet): group/version and group/version/Kind.
// The types of Kubernetes' own client say from which release to which each is there; one
// that is newer than the client is missing, and is for Request.APIVersions.
func builtin(version common.KubeVersion) []string {
	// What cannot be read is no number of a version, and ParseKubeVersion read it.
	major, _ := strconv.Atoi(version.Major)
	minor, _ := strconv.Atoi(version.Minor)
	known := runtime.NewScheme()
	utilruntime.Must(scheme.AddToScheme(known))
	utilruntime.Must(apiextensionsv1.AddToScheme(known))
	// The aggregator is a part of every API server; its types are not in the client.
	out := []string{"apiregistration.k8s.io/v1", "apiregistration.k8s.io/v1/APIService"}
	for kind, goType := range known.AllKnownTypes() {
		if served(kind, goType, release{major, minor}) {
			out = append(out, kind.GroupVersion().String(), kind.GroupVersion().String()+"/"+kind.Kind)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// served reports whether a release serves a kind to everybody. What has no metadata is
// a list or an option, and no kind of objects.
func served(kind schema.GroupVersionKind, goType reflect.Type, by release) bool {
	o := reflect.New(goType).Interface()
	if _, ok := o.(metav1.Object); !ok || kind.Version == runtime.APIVersionInternal || strings.Contains(kind.Version, "alpha") {
		return false
	}
	introduced := release{1, 0}
	if t, ok := o.(interface{ APILifecycleIntroduced() (int, int) }); ok {
		introduced.major, introduced.minor = t.APILifecycleIntroduced()
	}
	if by.before(introduced) || strings.Contains(kind.Version, "beta") && !introduced.before(closedBetas) {
		return false
	}
	t, ok := o.(interface{ APILifecycleRemoved() (int, int) })
	if !ok {
		return true
	}
	var removed release
	removed.major, removed.minor = t.APILifecycleRemoved()
	return by.before(removed)
}
