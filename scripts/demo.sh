#!/bin/sh
# The main job on the embedded default, with the virtual environment $1; further arguments go to `mlalign run`.
set -eu
bin=$1/bin
shift
if "$bin/python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("vllm") is None)'; then
    engine=vllm
else
    engine=transformers
    echo "demo: no vLLM can be had on this machine; running with engine=transformers"
fi
exec "$bin/mlalign" run recipe=reuse_your_rewards name=demo root=demo engine="$engine" "$@"
