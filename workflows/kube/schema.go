package kube

import (
	"errors"
	"fmt"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// definitions are CustomResourceDefinitions by the kind that they define.
type definitions map[schema.GroupKind]*definition

// definition is one CustomResourceDefinition. Its schemas are read when they are
// needed: some have megabytes.
type definition struct {
	id         ID
	plural     string
	namespaced bool
	crd        *apiextensionsv1.CustomResourceDefinition
	validators map[string]*validator
}

type validator struct {
	structural *structural.Structural
	schema     validation.SchemaValidator
}

// define reads the definitions among objects.
func define(objects []Object) (definitions, error) {
	out := definitions{}
	var errs []error
	for _, o := range objects {
		if groupKind(o) != crdKind {
			continue
		}
		if o.GroupVersionKind().Version != "v1" {
			errs = append(errs, fmt.Errorf("%s: apiVersion %s is not served since Kubernetes 1.22; it must be apiextensions.k8s.io/v1", IDOf(o), o.GetAPIVersion()))
			continue
		}
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, crd); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", IDOf(o), err))
			continue
		}
		d := &definition{
			id: IDOf(o), plural: crd.Spec.Names.Plural, namespaced: crd.Spec.Scope == apiextensionsv1.NamespaceScoped,
			crd: crd, validators: map[string]*validator{},
		}
		out[schema.GroupKind{Group: crd.Spec.Group, Kind: crd.Spec.Names.Kind}] = d
	}
	return out, errors.Join(errs...)
}

func (d definitions) add(more definitions) {
	for k, v := range more {
		if _, ok := d[k]; !ok {
			d[k] = v
		}
	}
}

// resource is how the definition's objects of a version are addressed.
func (d *definition) resource(version string) (resource, error) {
	var served []string
	for _, v := range d.crd.Spec.Versions {
		if v.Served && v.Name == version {
			gvr := schema.GroupVersionResource{Group: d.crd.Spec.Group, Version: version, Resource: d.plural}
			return resource{gvr: gvr, namespaced: d.namespaced}, nil
		}
		if v.Served {
			served = append(served, v.Name)
		}
	}
	return resource{}, &UnknownKindError{
		Kind:     schema.GroupVersionKind{Group: d.crd.Spec.Group, Version: version, Kind: d.crd.Spec.Names.Kind},
		Versions: served,
	}
}

// validator reads the schema of one version; nil when it has none.
func (d *definition) validator(version string) (*validator, error) {
	if v, ok := d.validators[version]; ok {
		return v, nil
	}
	for i := range d.crd.Spec.Versions {
		v := &d.crd.Spec.Versions[i]
		if v.Name != version || v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			continue
		}
		internal := &apiextensions.JSONSchemaProps{}
		if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, internal, nil); err != nil {
			return nil, fmt.Errorf("%s: reading the schema of %s: %w", d.id, version, err)
		}
		s, err := structural.NewStructural(internal)
		if err != nil {
			return nil, fmt.Errorf("%s: the schema of %s is not structural: %w", d.id, version, err)
		}
		sv, _, err := validation.NewSchemaValidator(internal)
		if err != nil {
			return nil, fmt.Errorf("%s: reading the schema of %s: %w", d.id, version, err)
		}
		d.validators[version] = &validator{s, sv}
		return d.validators[version], nil
	}
	return nil, nil
}

// InvalidError says what in an object does not fit the schema of its kind.
type InvalidError struct {
	ID ID
	// Problems are one line each, with the path of the field.
	Problems []string
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("%s does not fit the schema of its kind:\n  %s", e.ID, strings.Join(e.Problems, "\n  "))
}

// check compares an object with the schema of its version, as the API server
// does before it keeps the object: unknown fields, then defaults, then values.
// Rules in CEL (x-kubernetes-validations) are left to the server.
func (d *definition) check(o Object, sensitive bool) error {
	v, err := d.validator(o.GroupVersionKind().Version)
	if err != nil || v == nil {
		return err
	}
	content := o.DeepCopy().Object
	e := &InvalidError{ID: IDOf(o)}
	for _, path := range pruning.PruneWithOptions(content, v.structural, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}) {
		e.Problems = append(e.Problems, path+": there is no such field")
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(content, v.structural)
	defaulting.Default(content, v.structural)
	for _, problem := range validation.ValidateCustomResource(nil, content, v.schema) {
		line := problem.Error()
		if sensitive {
			line = fmt.Sprintf("%s: %s", problem.Field, problem.Type)
		}
		e.Problems = append(e.Problems, line)
	}
	if len(e.Problems) > 0 {
		return e
	}
	return nil
}
