// Command health tells how tools that wait for objects read them: kstatus, by which Flux and kpt wait, and Argo CD by
// health rules in Lua. It is given a directory with a rule KIND.lua for each kind, reads a List of objects from its
// input, and writes a line of JSON for each.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Verdict is how one object is read.
type Verdict struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Kstatus is Current, InProgress, Failed or Terminating.
	Kstatus string `json:"kstatus"`
	// Argo is Healthy, Progressing, Degraded or Suspended.
	Argo    string `json:"argo"`
	Message string `json:"message"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "health:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) != 1 {
		return errors.New("usage: health DIRECTORY <OBJECTS.json")
	}
	var list unstructured.UnstructuredList
	if err := json.NewDecoder(os.Stdin).Decode(&list); err != nil {
		return fmt.Errorf("reading objects: %w", err)
	}
	answers := json.NewEncoder(os.Stdout)
	for i := range list.Items {
		verdict, err := judge(&list.Items[i], arguments[0])
		if err != nil {
			return fmt.Errorf("%s %s: %w", list.Items[i].GetKind(), list.Items[i].GetName(), err)
		}
		if err := answers.Encode(verdict); err != nil {
			return err
		}
	}
	return nil
}

func judge(object *unstructured.Unstructured, rules string) (Verdict, error) {
	verdict := Verdict{Kind: object.GetKind(), Namespace: object.GetNamespace(), Name: object.GetName()}
	result, err := status.Compute(object)
	if err != nil {
		return verdict, fmt.Errorf("kstatus: %w", err)
	}
	verdict.Kstatus = result.Status.String()
	verdict.Argo, verdict.Message, err = health(object, filepath.Join(rules, object.GetKind()+".lua"))
	return verdict, err
}

// health runs a rule as Argo CD does: the object is the global obj, the answer a table with status and message.
func health(object *unstructured.Unstructured, rule string) (string, string, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for _, library := range []struct {
		name string
		open lua.LGFunction
	}{{lua.BaseLibName, lua.OpenBase}, {lua.TabLibName, lua.OpenTable}, {lua.StringLibName, lua.OpenString}} {
		state.Push(state.NewFunction(library.open))
		state.Push(lua.LString(library.name))
		state.Call(1, 0)
	}
	state.SetGlobal("obj", value(state, object.Object))
	if err := state.DoFile(rule); err != nil {
		return "", "", fmt.Errorf("rule: %w", err)
	}
	answer, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "", "", fmt.Errorf("rule %s answers no table", rule)
	}
	return lua.LVAsString(answer.RawGetString("status")), lua.LVAsString(answer.RawGetString("message")), nil
}

// value is what Lua sees of a value of JSON.
func value(state *lua.LState, of any) lua.LValue {
	switch of := of.(type) {
	case bool:
		return lua.LBool(of)
	case string:
		return lua.LString(of)
	case int64:
		return lua.LNumber(of)
	case float64:
		return lua.LNumber(of)
	case []any:
		table := state.CreateTable(len(of), 0)
		for _, item := range of {
			table.Append(value(state, item))
		}
		return table
	case map[string]any:
		table := state.CreateTable(0, len(of))
		for name, item := range of {
			table.RawSetString(name, value(state, item))
		}
		return table
	default:
		return lua.LNil
	}
}
