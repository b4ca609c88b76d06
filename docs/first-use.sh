#!/usr/bin/env bash
# Plays a first use from `git clone` on and prints it as Markdown: every command, its own output shortened by one rule,
# and the seconds it took.
#
#   docs/first-use.sh REPOSITORY > docs/first-use.md
#
# Settings of the environment: TORCH, what `make` installs (the CPU build by default), and KEEP=1, which leaves the
# folder. It needs git, make, Python with venv and pip's index, no GPU. A command that fails ends it with its exit code.
set -euo pipefail

HEAD_LINES=${HEAD_LINES:-12} # of a longer output the first so many lines are shown,
TAIL_LINES=${TAIL_LINES:-24} # and the last so many
TORCH=${TORCH:-torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu}

# Standard input as a reader would see it: no colour, of lines rewritten in place the last form, no path of this
# machine nor pip's warnings about its package index, and the middle of what is longer than HEAD_LINES + TAIL_LINES left
# out, with the number of lines.
shorten() {
  sed -e 's/\x1b\[[0-9;?]*[A-Za-z]//g' -e 's/\r$//' -e 's/.*\r//' -e "s|$PWD|~/ap2o_fast|g" -e "s|${folder:-$HOME}|~|g" -e "s|$HOME|~|g" \
    -e 's/[[:space:]]*$//' -e "/^WARNING: Location 'file:/d" |
    awk -v head="$HEAD_LINES" -v tail="$TAIL_LINES" '
      { line[NR] = $0 }
      END {
        for (i = 1; i <= NR; i++) {
          if (NR <= head + tail || i <= head || i > NR - tail) print line[i]
          else if (i == head + 1) printf "… (%d lines)\n", NR - head - tail
        }
      }'
}

# show COMMAND [STATUS]: run a line of shell, print it, its output and how long it took. Fails unless it ends with
# STATUS (0), or with any where that is `any`.
show() {
  local began ended output status=0 wanted=${2:-0}
  output=$(mktemp)
  began=$(date +%s)
  bash -c "$1" > "$output" 2>&1 < /dev/null || status=$?
  ended=$(date +%s)
  printf '````console\n$ %s\n' "$1" # four: what is shown may have fences of three
  shorten < "$output"
  printf '````\n\n%s\n\n' "$((ended - began)) s$([ "$status" -eq 0 ] || echo ", exit code $status")"
  rm -f "$output"
  [ "$wanted" = any ] || [ "$status" -eq "$wanted" ]
}

say() { printf '%s\n\n' "$1"; }

machine() {
  local cores model memory
  cores=$(nproc)
  model=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
  memory=$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)
  printf '%s cores (%s), %s, %s, load %s' "$cores" "$model" "$memory" "$(python3 --version)" "$(cut -d' ' -f1 /proc/loadavg)"
}

main() {
  local repository=${1:?usage: first-use.sh REPOSITORY}
  repository=$(if [ -d "$repository" ]; then cd "$repository" && pwd; else echo "$repository"; fi)
  folder=$(mktemp -d) # not local: what removes it at the end runs outside of this function
  [ -n "${KEEP:-}" ] || trap 'rm -rf "$folder"' EXIT
  git clone --quiet "$repository" "$folder/ap2o_fast"
  cd "$folder/ap2o_fast"
  # Nothing that an earlier use left: no model, no packages.
  export AP2O_CACHE="$folder/.cache/ap2o" XDG_CACHE_HOME="$folder/cache" PIP_CACHE_DIR="$folder/pip" HF_HOME="$folder/hub"

  say "# A first use, from \`git clone\` on"
  say "Written by \`docs/first-use.sh\` on $(date -u +%Y-%m-%d) at commit $(git rev-parse --short HEAD): $(machine). What was typed and what came, as
it came; of more than $((HEAD_LINES + TAIL_LINES)) lines the first $HEAD_LINES and the last $TAIL_LINES. Progress is what a program prints that writes to no terminal."

  say "## The demo"
  say "After \`git clone\` and \`cd ap2o_fast\`. Installation, download of the model and the whole method are in the time."
  show "make demo TORCH=\"$TORCH\" ARGS=\"${DEMO_ARGS:-}\""
  export PATH="$PWD/.venv/bin:$PATH"
  show "ap2o report runs/demo"

  say "## What went wrong, and where"
  show "ap2o book runs/demo"
  show "ap2o book runs/demo --where error=WrongResult --show 1"

  say "## Settings of one's own"
  say "Two problems in a file of one's own, more from the repository, and the small model that comes with it:"
  cat > mine.jsonl << 'PROBLEMS'
{"task_id": "mine/0", "prompt": "def add_numbers(a, b):\n    \"\"\"Return the sum of a and b.\"\"\"\n", "entry_point": "add_numbers", "test": "assert add_numbers(1, 2) == 3\nassert add_numbers(-1, 1) == 0\n"}
{"task_id": "mine/1", "prompt": "def count_even(numbers):\n    \"\"\"Return how many of the numbers are even.\"\"\"\n", "entry_point": "count_even", "test": "assert count_even([1, 2, 4]) == 2\nassert count_even([]) == 0\n"}
PROBLEMS
  cat > mine.toml << 'SETTINGS'
run_dir = "runs/mine"

[model]
name = "studies/organism/model"

[problems.train]
source = ["mine.jsonl", "studies/organism/problems/train.jsonl"]
split = ""
limit = 40

[problems.quiz]
source = "studies/organism/problems/quiz.jsonl"
split = ""
limit = 20

[problems.test]
source = "studies/organism/problems/test.jsonl"
split = ""
limit = 40

[sampling]
n = 8
max_new_tokens = 80

[curriculum]
min_passed = 1

[train]
epochs = 3
lr = 2e-4
batch_pairs = 16

[evaluate]
n = 4
k = [1]
temperature = 1.0
SETTINGS
  show "cat mine.toml"
  say "A setting that does not exist:"
  show "ap2o config mine.toml train.lrr=1e-4" 2
  show "ap2o data mine.toml --show 1"
  show "ap2o doctor" any
  show "ap2o run mine.toml"
  show "ls runs/mine"
  say "Everything together: $((SECONDS / 60)) min $((SECONDS % 60)) s."
}

# Sourced, it only defines: tests try the parts.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  main "$@"
fi
