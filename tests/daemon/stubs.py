"""Python's side of the .proto files: compiled into a temporary directory at import, offered as `pb` and `rpc`, `health_pb` and `health_rpc`,
`reflection_pb`, `testing_pb` and `testing_rpc`."""
import atexit
import importlib
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEALTH = "/usr/share/grpc-proto"  # Debian's grpc-proto


def compile_protos():
    out = tempfile.mkdtemp(prefix="outrider-stubs-")
    atexit.register(shutil.rmtree, out, True)
    plugin = "--plugin=protoc-gen-grpc_python=" + shutil.which("grpc_python_plugin")
    for path, proto in ((ROOT / "proto", "outrider/v1/inference.proto"), (ROOT / "tests/daemon", "testing.proto"),
                        (HEALTH, "grpc/health/v1/health.proto"), (HEALTH, "grpc/reflection/v1/reflection.proto")):
        subprocess.run(["protoc", f"-I{path}", f"--python_out={out}", f"--grpc_python_out={out}", plugin, proto], check=True)
    # `grpc` is the library's own package: these stubs move out of its way.
    for name in "health", "reflection":
        shutil.move(f"{out}/grpc/{name}/v1", f"{out}/grpc_{name}_v1")
        stub = pathlib.Path(out, f"grpc_{name}_v1", f"{name}_pb2_grpc.py")
        stub.write_text(stub.read_text().replace(f"from grpc.{name}.v1 import", f"from grpc_{name}_v1 import"))
    sys.path.insert(0, out)


compile_protos()
pb = importlib.import_module("outrider.v1.inference_pb2")
rpc = importlib.import_module("outrider.v1.inference_pb2_grpc")
health_pb = importlib.import_module("grpc_health_v1.health_pb2")
health_rpc = importlib.import_module("grpc_health_v1.health_pb2_grpc")
reflection_pb = importlib.import_module("grpc_reflection_v1.reflection_pb2")
testing_pb = importlib.import_module("testing_pb2")
testing_rpc = importlib.import_module("testing_pb2_grpc")
