// A small mapper in Go, for tests: it speaks the device mapper interface with google.golang.org/grpc as real mappers do.
//
//	dmi-client -proto dmi.proto -edge DIR/dmi.sock -socket DIR/mapper.sock [-protocol P] [-name N]
//
// It reads commands, one a line, and writes what it is told and what it is answered as JSON, one object a line:
//
//	register             MapperRegister, with data
//	serve                serves DeviceMapperService on its socket
//	report NS/NAME PROPERTY VALUE
//	state NS/NAME STATE
//	fail METHOD          answers further calls of METHOD with an error; `fail` alone ends that
//
// There is no generated code: the messages are built from our dmi.proto when it starts. It is compiled with two releases of grpc
// (go.mod and go-1.56.mod), which write `:authority` in two ways.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/bufbuild/protocompile"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	_ "google.golang.org/protobuf/types/known/anypb"
	_ "google.golang.org/protobuf/types/known/wrapperspb"
)

var (
	protoFile = flag.String("proto", "dmi.proto", "the definition")
	edge      = flag.String("edge", "/etc/kubeedge/dmi.sock", "edgecore's socket")
	socket    = flag.String("socket", "/etc/kubeedge/mapper.sock", "the socket to serve")
	protocol  = flag.String("protocol", "modbus", "the protocol")
	name      = flag.String("name", "mapper", "the name")
	output    sync.Mutex
	failing   sync.Map
)

func main() {
	flag.Parse()
	file, err := load(*protoFile)
	if err != nil {
		say(map[string]any{"fatal": err.Error()})
		os.Exit(1)
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		words := strings.SplitN(lines.Text(), " ", 4)
		if err := perform(file, words); err != nil {
			say(map[string]any{"failed": words[0], "code": status.Code(err).String(), "error": err.Error()})
		}
	}
}

func perform(file protoreflect.FileDescriptor, words []string) error {
	argument := func(at int) string {
		if at < len(words) {
			return words[at]
		}
		return ""
	}
	namespace, device, _ := strings.Cut(argument(1), "/")
	switch words[0] {
	case "register":
		return call(file, "MapperRegister", map[string]any{"withData": true, "mapper": map[string]any{
			"name": *name, "version": "v1.0.0", "api_version": "v1.0.0", "protocol": *protocol,
			"address": []byte(*socket), "state": "ok",
		}})
	case "serve":
		return serve(file)
	case "report":
		return call(file, "ReportDeviceStatus", map[string]any{
			"deviceName": device, "deviceNamespace": namespace,
			"reportedDevice": map[string]any{"twins": []any{map[string]any{
				"propertyName": argument(2),
				// Go's edgecore ends when this is absent.
				"observedDesired": map[string]any{"value": ""},
				"reported": map[string]any{"value": argument(3), "metadata": map[string]any{
					"timestamp": fmt.Sprint(time.Now().UnixMilli()), "type": "string",
				}},
			}}},
		})
	case "state":
		return call(file, "ReportDeviceStates", map[string]any{
			"deviceName": device, "deviceNamespace": namespace, "state": argument(2),
		})
	case "fail":
		failing.Range(func(key, _ any) bool { failing.Delete(key); return true })
		failing.Store(argument(1), true)
		say(map[string]any{"done": "fail"})
		return nil
	}
	return fmt.Errorf("unknown command %q", words[0])
}

func load(path string) (protoreflect.FileDescriptor, error) {
	folder := &protocompile.SourceResolver{ImportPaths: []string{filepath.Dir(path)}}
	compiler := protocompile.Compiler{Resolver: protocompile.WithStandardImports(folder)}
	files, err := compiler.Compile(context.Background(), filepath.Base(path))
	if err != nil {
		return nil, err
	}
	return files[0], nil
}

func method(file protoreflect.FileDescriptor, service, name string) protoreflect.MethodDescriptor {
	return file.Services().ByName(protoreflect.Name(service)).Methods().ByName(protoreflect.Name(name))
}

// One call on a connection of its own with a second's time, as mapper-framework makes them.
func call(file protoreflect.FileDescriptor, name string, request map[string]any) error {
	described := method(file, "DeviceManagerService", name)
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	message := dynamicpb.NewMessage(described.Input())
	if err := protojson.Unmarshal(text, message); err != nil {
		return err
	}
	dialer := grpc.WithContextDialer(func(ctx context.Context, path string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	})
	connection, err := dial(*edge, dialer, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	answer := dynamicpb.NewMessage(described.Output())
	if err := connection.Invoke(ctx, "/v1beta1.DeviceManagerService/"+name, message, answer); err != nil {
		return err
	}
	say(map[string]any{"answered": name, "response": asJSON(answer)})
	return nil
}

// A path is passed as it is: that is what makes it the authority.
func dial(target string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	//nolint:staticcheck // as mappers call it
	return grpc.Dial(target, options...)
}

func serve(file protoreflect.FileDescriptor) error {
	os.Remove(*socket)
	listener, err := net.Listen("unix", *socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	service := file.Services().ByName("DeviceMapperService")
	description := grpc.ServiceDesc{ServiceName: string(service.FullName()), HandlerType: (*any)(nil)}
	for at := 0; at < service.Methods().Len(); at++ {
		described := service.Methods().Get(at)
		description.Methods = append(description.Methods, grpc.MethodDesc{
			MethodName: string(described.Name()),
			Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				request := dynamicpb.NewMessage(described.Input())
				if err := decode(request); err != nil {
					return nil, err
				}
				say(map[string]any{"call": string(described.Name()), "request": asJSON(request)})
				if _, fails := failing.Load(string(described.Name())); fails {
					return nil, status.Error(codes.Unknown, "told to fail")
				}
				return dynamicpb.NewMessage(described.Output()), nil
			},
		})
	}
	server.RegisterService(&description, struct{}{})
	go server.Serve(listener)
	say(map[string]any{"done": "serve"})
	return nil
}

func asJSON(message *dynamicpb.Message) json.RawMessage {
	text, err := protojson.MarshalOptions{EmitUnpopulated: false}.Marshal(message)
	if err != nil {
		text, _ = json.Marshal(map[string]string{"unreadable": err.Error()})
	}
	return text
}

func say(line map[string]any) {
	text, _ := json.Marshal(line)
	output.Lock()
	defer output.Unlock()
	os.Stdout.Write(append(text, '\n'))
}
