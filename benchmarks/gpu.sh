#!/usr/bin/env bash
# On a GPU: tests of model, writing and training, speed of training in float32 and bfloat16, and of writing 1,000 lines.
#
#     bash benchmarks/gpu.sh [FOLDER]
#
# Each part has a limit, all together under eight minutes. DEVICE=cpu rehearses it on the processor with small batches.
# PYTHON names the Python to use (default: .venv/bin/python or python3). Figures go to FOLDER/gpu.txt (default: gpu).
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
device=${DEVICE:-cuda}
folder=${1:-gpu}
steps=20 batch=50 lines=1000
[ "$device" = cpu ] && steps=1 batch=4 lines=8
mkdir -p "$folder"
exec > >(tee "$folder/gpu.txt") 2>&1
failed=0
part() { # a title, the most seconds, a command
  echo "== $1"
  local begun=$SECONDS
  timeout "$2" "${@:3}"
  local status=$?
  [ $status = 0 ] || { failed=1; echo "FAILED: $1 (status $status)"; }
  echo "-- $((SECONDS - begun)) s"
}

part "the machine" 40 "$python" - "$device" <<'END'
import sys, torch
name = torch.cuda.get_device_name() if sys.argv[1].startswith("cuda") else "processor"
print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads")
END

if "$python" -c "import pytest, hypothesis" 2>/dev/null; then
  part "tests" 100 "$python" -m pytest -q -n 0 -p no:cacheprovider tests/test_device.py
else
  echo "== tests: left out; pip install -r tests/requirements.txt"
fi

part "training: seconds a step of $batch lines of at most 800 points, made up, as long as those of IAM-OnDB" 110 \
  env PYTHONPATH=.:benchmarks "$python" - "$device" "$steps" "$batch" <<'END'
import statistics, sys, time
import numpy as np, torch
from speed import TIMESTEPS, made_up_lines
from handwriting.training.flags import parse_flags
from handwriting.training.run import Run
from handwriting.training.tasks import make_batches

device, steps, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
dataset = made_up_lines(400)
for task in ("rand_write", "synthesis"):
    for precision in ("fp32", "bf16"):
        flags = ["--task", task, "--device", device, "--precision", precision, "--batch_size", size]
        run = Run(parse_flags([*map(str, flags), "--timesteps", str(TIMESTEPS), "--learning_rate", "1e-4"]), dataset)
        lines = dataset.lines("train", task == "synthesis")
        lengths = np.minimum(np.diff(dataset.starts)[lines], TIMESTEPS + 1)
        batches, seconds, points = make_batches(lengths, size, np.random.default_rng(1)), [], 0
        for n in range(steps + 2):
            batch = batches[n % len(batches)]
            begun = time.perf_counter()
            run.step(lines[batch])
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if n > 1:  # the first are slow
                seconds.append(time.perf_counter() - begun)
                points += int((lengths[batch] - 1).sum())
        memory = torch.cuda.max_memory_allocated() / 1e9 if device.startswith("cuda") else 0
        print(f"{task}, {precision}: {statistics.median(seconds):.3f} s a step, {points / sum(seconds):.0f} points/s, {memory:.1f} GB", flush=True)
END

for n in 1 2 3 4 5; do cat benchmarks/sentences.txt; done | head -n "$lines" >"$folder/texts.txt"
part "writing $lines lines, as they come" 80 "$python" generate.py --batch "$folder/texts.txt" --format json \
  --device "$device" --retries 0 --output "$folder/plain"
part "writing $lines lines, read and written again, as grey pictures 64 pixels high" 110 "$python" generate.py \
  --batch "$folder/texts.txt" --height 64 --grey --labels metadata --device "$device" --output "$folder/checked"
part "what was read wrong" 20 "$python" - "$folder/checked/manifest.jsonl" <<'END'
import json, sys
wrong = [json.loads(line)["wrong"] for line in open(sys.argv[1])]
print(f"{sum(wrong) / len(wrong):.2%} of the characters, by line; {sum(w == 0 for w in wrong)} of {len(wrong)} without a mistake")
END
exit "$failed"
