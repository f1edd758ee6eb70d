"""Real MySQL clients connect, create, write, read back all types, and roll back."""

import os
import pathlib
import subprocess

from damask import playground

RUN = pathlib.Path(__file__).resolve().parent.parent / "clients" / "run.sh"

with playground() as server:
    environment = {**os.environ, "DAMASK_HOST": "127.0.0.1", "DAMASK_PORT": str(server.port)}
    subprocess.run([str(RUN)], check=True, env=environment, timeout=600)
