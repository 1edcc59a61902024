#!/bin/bash
# All hosts of one TPU VM, by ssh; the package is installed there in ~/soraflax/.venv.
# The same command again resumes; its log is ~/${name}.log on every host.
set -eu
gcloud compute tpus tpu-vm ssh ${name} --zone=${zone} --worker=all --command='
  cd ~/soraflax
  nohup .venv/bin/soraflax ${words} >> ~/${name}.log 2>&1 < /dev/null &
'
