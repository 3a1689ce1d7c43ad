#!/usr/bin/env bash
# Shows what rm-score promises, part by part, each command with the exit status and the words that are expected of it.
#   VENV=.venv DATA=/path/to/data bash scripts/scoring_tour.sh
# Stops at the first thing that is not as expected, with the command, its exit status and what it said.
# PARTS="bad kills" shows some parts alone; BOX=FOLDER keeps the models and rows of one run for the next.
set -euo pipefail
ROOT=$PWD
VENV=$(cd "${VENV:-.venv}" && pwd)
DATA=${DATA:?name the folder that holds xcopa and hh_harmless}
DATA=$(cd "$DATA" && pwd)
PY=$VENV/bin/python
export PYTHONPATH=$ROOT OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error VLLM_LOGGING_LEVEL=ERROR TOKENIZERS_PARALLELISM=false
if [ -z "${BOX:-}" ]; then
  BOX=$(mktemp -d "${TMPDIR:-/tmp}/acceptance.XXXX")
  OWN=$BOX
fi
SERVER=
trap '[ -z "$SERVER" ] || kill $SERVER 2>/dev/null; [ -z "${OWN:-}" ] || rm -rf "$OWN"' EXIT
mkdir -p "$BOX"
cd "$BOX"
BEGAN=$(date +%s)
SAID=$BOX/.said

part() { printf '\n===== %s  [%ss]\n' "$*" "$(($(date +%s) - BEGAN))"; }
fail() { printf '\nFAILED: %s\n' "$*" >&2; sed 's/^/    | /' "$SAID" | tail -40 >&2; exit 1; }
# expect STATUS COMMAND…: runs it, shows the first lines of what it said
expect() {
  local want=$1 got=0; shift
  printf '$ %s\n' "${*/#$PY -m reward_models/rm-score}"
  "$@" >"$SAID" 2>&1 </dev/null || got=$?
  grep -v -e '^\[.*real_accelerator' -e 'Loading weights' -e 'Writing model' "$SAID" | head -"${LINES_SHOWN:-12}" | cut -c1-180 | sed 's/^/    /' || true
  printf '    -> exit status %s\n' "$got"
  [ "$got" = "$want" ] || fail "expected status $want, got $got: $*"
}
says() { grep -qE -- "$1" "$SAID" || fail "it did not say: $1"; }
score() { local want=$1; shift; expect "$want" rm_score score --quiet "$@"; }
rm_score() { "$PY" -m reward_models "$@"; }
holds() { "$PY" - "$@" <<'P' || fail "$*"
import json, sys
name, test = sys.argv[1:3]
rows = [json.loads(line) for line in open(name, encoding="utf-8")]
assert eval(test), (test, rows[:2])
print(f"    holds in {len(rows)} rows of {name}: {test}")
P
}
same() { cmp "$1" "$2" || fail "$1 and $2 differ"; echo "    $1 and $2 are the same bytes"; }

TINY=$ROOT/mlalign/data/tiny
RM=${RM:-runs/rm/steps/reward/model}

show_models() {
part "models and rows"
cat > make.py <<'P'
import json, random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1] + "/tests")
import torch
from tiny_classifier import TEXTS, make_config, make_tokenizer, save_classifier
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM
import mlalign

tiny = Path(mlalign.__file__).parent / "data" / "tiny"
save_classifier("classifier")
labels = {"helpful": 0, "harmless": 1}
save_classifier("several", num_labels=2, label2id=labels, id2label={i: n for n, i in labels.items()})
tokenizer = make_tokenizer()
Qwen3ForCausalLM(make_config(tokenizer)).save_pretrained("nohead"); tokenizer.save_pretrained("nohead")
save_classifier("notokenizer")
for p in Path("notokenizer").glob("*token*"): p.unlink()
Path("notokenizer/chat_template.jinja").unlink(missing_ok=True)
broken = save_classifier(Path("nan"))
from transformers import AutoModelForSequenceClassification
m = AutoModelForSequenceClassification.from_pretrained("nan")
with torch.no_grad(): m.get_input_embeddings().weight[make_tokenizer()("qzqz")["input_ids"][0]] = float("nan")
m.save_pretrained("nan")
torch.manual_seed(1)
policy = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
with torch.no_grad():
    for w in policy.parameters(): w.add_(0.05 * w.std() * torch.randn(w.shape))
policy.save_pretrained("policy"); AutoTokenizer.from_pretrained(tiny).save_pretrained("policy")

# checkpoints of plain TRL, full and LoRA
from datasets import Dataset
from peft import LoraConfig
from trl import RewardConfig, RewardTrainer
sides = [[{"role": "user", "content": "Which number is the largest: 3 1 2?"}, {"role": "assistant", "content": t}] for t in TEXTS]
data = Dataset.from_list([{"chosen": sides[i % 6], "rejected": sides[(i + 1) % 6]} for i in range(8)])
for name in ("trl", "trl_lora"):
    lora = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["score"]) if name == "trl_lora" else None
    args = RewardConfig(name + "_out", max_steps=2, per_device_train_batch_size=4, use_cpu=True, bf16=False, report_to="none", save_strategy="no",
                        disable_tqdm=True, gradient_checkpointing=False, logging_strategy="no")
    trainer = RewardTrainer("nohead", args=args, train_dataset=data, processing_class=make_tokenizer(), peft_config=lora)
    trainer.train(); trainer.save_model(name)

draw = random.Random(0)
def write(name, rows): Path(name).write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
q, a = "Which number is the largest: 3 1 2?", lambda k: " ".join(draw.choices(TEXTS, k=k))
write("rows.jsonl", [{"id": f"r{i}", "prompt": f"{q} {i}", "response": a(1 + i % 4), "language": ["en", "sw", "tr"][i % 3], "note": i} for i in range(600)])
user, said = {"role": "user", "content": q}, {"role": "assistant", "content": "3."}
write("shapes.jsonl", [
    {"prompt": q, "response": "3.", "extra": 1.5}, {"prompt": [user], "response": [said]}, {"prompt": q, "responses": ["3.", "1.", "2 2"]},
    {"messages": [user, said], "kept": {"a": [1]}}, {"prompt": q, "chosen": "3.", "rejected": "1."}, {"chosen": [user, said], "rejected": [user, {"role": "assistant", "content": "1"}]}])
write("best_of.jsonl", [{"prompt": f"{q} {i}", "responses": [a(2) + f" {j}" for j in range(4)], "language": "en", "reference": {"answer": "3", "match": "numeric"}} for i in range(6)])
write("pairs.jsonl", [{"id": str(i), "group_id": str(i), "prompt": f"{q} {i}", "chosen": a(2), "rejected": a(1), "language": c} for c in ("en", "sw") for i in range(80)])
Path("few.jsonl").write_text("".join(open("pairs.jsonl", encoding="utf-8").readlines()[:4]), encoding="utf-8")
write("translations.jsonl", [{"prompt": "Translate: The sum is 4.", "response": r, "language": "en", "reference": {"text": "The sum is 4."}} for r in ("The sum is 4.", "Sum 4", "Nothing")])
write("numbers.jsonl", [{"prompt": "3 + 4?", "response": r, "language": c, "reference": {"answer": "7", "match": "numeric"}} for r, c in
    (("The sum is 7.", "en"), ("योग ७ है।", "hi"), ("المجموع ٧", "ar"), ("যোগফল ৭", "bn"), ("The sum is 8.", "en"))] + [
    {"prompt": "A or B?", "response": "The answer is (B).", "language": "en", "reference": {"answer": "B", "match": "multiple_choice", "options": {"A": "one", "B": "two"}}}])
write("adherence.jsonl", [{"prompt": "?", "response": r, "language": "sw"} for r in ("Kitabu hiki kinaeleza historia ya watu wa pwani ya Afrika Mashariki.", "This book tells the history of the people of the coast.", "書籍講述了歷史。這是一個很長的句子。")])
write("english.jsonl", [{"prompt": "3 ve 4?", "english_prompt": "Which number is the largest: 3 4?", "response": "The largest number is 4.", "language": "tr"}, {"prompt": "x?", "response": "y", "language": "tr"}])
# M-RewardBench's shape: 23 languages and English, verdicts known: the family length prefers the longer answer
from reward_models.evidence import rewardbench
from collections import Counter
LANGUAGES = "arb_Arab ces_Latn deu_Latn ell_Grek fra_Latn heb_Hebr hin_Deva ind_Latn ita_Latn jpn_Jpan kor_Hang nld_Latn pes_Arab pol_Latn por_Latn ron_Latn rus_Cyrl spa_Latn tur_Latn ukr_Cyrl vie_Latn cmn_Hans cmn_Hant".split()
Path("mrb").mkdir(); known = {}
for k, language in enumerate([*LANGUAGES, "eng_Latn"]):
    rows = []
    for subset, count in rewardbench.COUNTS["m_rewardbench"].items():
        for i in range(max(count // 20, 1)):
            v = known[language, subset, i] = draw.choices((1, 0, -1), (0.5 + k / 60, 0.1, 0.4))[0]
            chosen, rejected = {1: ("aa", "b"), 0: ("a", "b"), -1: ("a", "bb")}[v]
            rows.append({"id": i, "prompt": "?", "chosen": chosen, "rejected": rejected, "subset": subset})
    write(f"mrb/{language}.jsonl", rows)
def score_of(x):
    total = 0
    for subsets in rewardbench.SECTIONS.values():
        w = [rewardbench.COUNTS["m_rewardbench"][s] for s in subsets]
        acc = [sum(v == 1 for (l, s, _), v in known.items() if (l, s) == (x, n)) / sum((l, s) == (x, n) for l, s, _ in known) for n in subsets]
        total += sum(p * q for p, q in zip(w, acc)) / sum(w) / 4
    return total
def kappa_of(x):
    both = [(v, known["eng_Latn", s, i]) for (l, s, i), v in known.items() if l == x]
    ours, theirs, n = Counter(p for p, _ in both), Counter(q for _, q in both), len(both)
    e = sum(ours[v] * theirs[v] for v in (1, 0, -1)) / n**2
    return (sum(p == q for p, q in both) / n - e) / (1 - e)
json.dump({"score": {x: score_of(x) for x in [*LANGUAGES, "eng_Latn"]}, "kappa": {x: kappa_of(x) for x in LANGUAGES}}, open("mrb_expected.json", "w"))
P
expect 0 "$PY" make.py "$ROOT"
}

show_trained() {
part "a classifier trained by the reward stage"
LINES_SHOWN=3 expect 0 "$PY" -m mlalign prepare kind=preference 'languages=[eng_Latn,tur_Latn,swh_Latn]' 'sources=[{adapter:tiny_world,split:train,options:{n:120}},{adapter:tiny_world,split:eval,options:{n:24}}]' name=prefs
LINES_SHOWN=3 expect 0 "$PY" -m mlalign reward model=tiny scale=tiny rows=runs/prefs/steps/prepare 'languages=[eng_Latn]' trainer.max_steps=12 trainer.learning_rate=1e-3 name=rm
expect 0 rm_score card show $RM
}

show_formats() {
part "formats and shapes of rows; extra columns are kept"
score 0 --model classifier --input shapes.jsonl --output shapes_out.jsonl
holds shapes_out.jsonl "len(rows) == 6 and 'score' in rows[0] and rows[0]['extra'] == 1.5 and len(rows[2]['scores']) == 3 and rows[3]['kept'] == {'a': [1]} and 'score_chosen' in rows[5]"
score 0 --model $RM --input rows.jsonl --output rows_out.parquet
score 0 --model $RM --input rows_out.parquet --column again --output twice.parquet
score 0 --model $RM --input rows.jsonl --output rows_out.jsonl
holds rows_out.jsonl "len(rows) == 600 and [r['note'] for r in rows] == list(range(600)) and all(isinstance(r['score'], float) for r in rows)"
expect 0 "$PY" -c "
import json
from reward_models import load
scores = load('$RM').score([{'prompt': 'How much is 2 + 2?', 'response': 'The sum is 4.'}])
print('three lines of Python:', scores); assert len(scores) == 1 and isinstance(scores[0], float)"
}

show_layouts() {
part "off-the-shelf layouts through the same two commands"
for model in trl trl_lora $RM; do
  score 0 --model $model --input rows.jsonl --output "out_${model//\//_}.jsonl"
  LINES_SHOWN=4 expect 0 rm_score evaluate --model one=$model --input pairs.jsonl --replicates 50 --output "evidence_${model//\//_}"
done
score 0 --model several --set output=harmless --input rows.jsonl --output several.jsonl
score 2 --model several --input rows.jsonl --output nothing.jsonl; says "name one with .output."
LINES_SHOWN=4 expect 0 rm_score evaluate --model one=several --set output=helpful --input pairs.jsonl --replicates 50 --output evidence_several
score 0 --family judge --set path="$TINY" --set mode=yes_no --set 'engine={name: transformers}' --input few.jsonl --output generative.jsonl
LINES_SHOWN=4 expect 0 rm_score evaluate --family judge --set path="$TINY" --set mode=yes_no --set 'engine={name: transformers}' --input few.jsonl --replicates 50 --output evidence_judge
}

show_families() {
part "families"
score 0 --family length --input shapes.jsonl --output length.jsonl
score 0 --family repetition --input rows.jsonl --output repetition.jsonl
score 0 --family language_adherence --input adherence.jsonl --output adherence_out.jsonl
holds adherence_out.jsonl "rows[0]['score'] > 0.5 > rows[1]['score'] and rows[1]['detected'] == 'eng_Latn' and rows[2]['score'] < 0.5"
score 0 --family verifier --input numbers.jsonl --output verified.jsonl
holds verified.jsonl "[r['score'] for r in rows] == [1.0, 1.0, 1.0, 1.0, 0.0, 1.0]"
for metric in chrf bleu; do score 0 --family translation --set metric=$metric --input translations.jsonl --output $metric.jsonl; done
holds chrf.jsonl "rows[0]['score'] == 100.0 > rows[1]['score'] > rows[2]['score']"
score 1 --family implicit --set path=policy --set reference="$TINY" --set beta=1.0 --set condition_on=english_prompt --input english.jsonl --output implicit.jsonl
holds implicit.jsonl "abs(rows[0]['score'] - (rows[0]['logp_policy'] - rows[0]['logp_reference'])) < 1e-9 and rows[1]['score'] is None and rows[1]['no_english_prompt']"
cat > composite.yaml <<Y
family: composite
scorers: [{family: classifier, path: $RM}, {family: length, name: length}, {family: language_adherence}]
weights: {classifier: 1.0, length: -0.01}
gates: [{scorer: language_adherence, min: 0.1}]
Y
score 1 --scorer composite.yaml --input best_of.jsonl --output composite.jsonl; says "16 gated"
cat > ensemble.yaml <<Y
family: ensemble
scorers: [{family: classifier, name: a, path: classifier}, {family: classifier, name: b, path: trl}]
Y
score 0 --scorer ensemble.yaml --input best_of.jsonl --output ensemble.jsonl
holds ensemble.jsonl "len(rows[0]['disagreement']) == 4"
}

show_judge() {
part "judge: every mode, rubric in English and in the row's language"
head -2 best_of.jsonl > judged.jsonl
for mode in scalar reference pairwise yes_no; do
  score 0 --family judge --set path="$TINY" --set mode=$mode --set rubric=row --set 'engine={name: transformers}' --input judged.jsonl --output judge_$mode.jsonl
done
holds judge_pairwise.jsonl "'position_disagreement' in rows[0] and 'positions_disagree' in rows[0]"
echo '{"group_id": "g", "questions": ["Is the sum right?", "Is it short?"]}' > checks.jsonl
"$PY" -c "
import json
rows = [json.loads(l) | {'group_id': 'g'} for l in open('judged.jsonl')]
open('grouped.jsonl', 'w').writelines(json.dumps(r) + '\n' for r in rows)"
score 0 --family judge --set path="$TINY" --set mode=checklist --set checklists=checks.jsonl --set 'engine={name: transformers}' --input grouped.jsonl --output judge_checklist.jsonl
holds judge_checklist.jsonl "all(v is not None for r in rows for v in r['scores']) and rows[0]['checks'] == [2.0] * 4"
}

show_server() {
part "judge behind a server: prose is counted and never a zero; a server that goes away is reported, then the run goes on"
cat > server.py <<'P'
import http.server, json, sys
left = [int(sys.argv[2])]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if left[0] == 0: import os; os._exit(1)
        left[0] -= 1
        said = sys.argv[1]
        data = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "usage": {"completion_tokens": 3, "prompt_tokens": 2, "total_tokens": 5},
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}]}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(data))); self.end_headers(); self.wfile.write(data)
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[3])), Handler)
open("port", "w").write(str(server.server_port)); server.serve_forever()
P
serve() { rm -f port; "$PY" server.py "$@" & SERVER=$!; for _ in $(seq 100); do [ -s port ] && break; sleep 0.1; done; PORT=$(cat port); }
engine() { echo "engine={name: openai, base_url: 'http://127.0.0.1:$PORT/v1', served_model: m, max_retries: 0, concurrency: 1}"; }
export OPENAI_API_KEY=none
serve "I like this answer a lot." -1 0
score 1 --family judge --set mode=scalar --set "$(engine)" --input few.jsonl --output prose.jsonl; says "without a score"
holds prose.jsonl "all(r['score_chosen'] is None and r['unparsed_chosen'] for r in rows)"
kill $SERVER; wait $SERVER 2>/dev/null || true
serve '{"verdict": "7"}' 3 0
score 2 --family judge --set mode=scalar --set "$(engine)" --window 1 --input few.jsonl --output gone.jsonl; says "does not answer|went away"; says "run the same command again"
wait $SERVER 2>/dev/null || true
serve '{"verdict": "7"}' -1 "$PORT"
score 0 --family judge --set mode=scalar --set "$(engine)" --window 1 --input few.jsonl --output gone.jsonl
holds gone.jsonl "len(rows) == 4 and all(r['score_chosen'] == 7.0 for r in rows)"
kill $SERVER; wait $SERVER 2>/dev/null || true
}

show_evaluate() {
part "evaluate: M-RewardBench's shape, 23 languages, against an independent computation"
LINES_SHOWN=30 expect 0 rm_score evaluate --family length --input mrb --replicates 100 --output mrb_out
"$PY" - <<'P' || fail "the numbers are not those of the independent computation"
import json
records = json.load(open("mrb_out/results.json"))["records"]
want = json.load(open("mrb_expected.json"))
def one(measure, language, section=""): return next(r["value"] for r in records if (r["measure"], r["language"], r["section"], r["subset"]) == (measure, language, section, ""))
mean = sum(v for x, v in want["score"].items() if x != "eng_Latn") / 23
for x, v in want["score"].items(): assert abs(one("rewardbench", x) - v) < 1e-6, x
for x, v in want["kappa"].items(): assert abs(one("kappa", x) - v) < 1e-6, x
assert abs(one("rewardbench", "avg") - mean) < 1e-6 and abs(one("rewardbench", "gap_to_english") - want["score"]["eng_Latn"] + mean) < 1e-6
print(f"    section weighting, averages and kappa of 23 languages agree to 1e-6 (average {mean:.4f})")
P
grep -h "score = mean of the sections" mrb_out/results.md | cut -c1-170
LINES_SHOWN=14 expect 0 rm_score evaluate --model a=classifier --model b=trl --input pairs.jsonl --replicates 100 --output two
[ -s two/heatmap.svg ] || fail "no heat map"
}

show_real() {
part "XCOPA and HH-RLHF, one command each"
LINES_SHOWN=24 expect 0 rm_score evaluate --model rm=$RM --format xcopa --input "$DATA/xcopa/val.*.jsonl" --replicates 200 --output xcopa
gunzip -c "$DATA/hh_harmless/test.jsonl.gz" | sed -n 1,200p > hh.jsonl
LINES_SHOWN=12 expect 0 rm_score evaluate --model rm=$RM --format hh_rlhf --input hh.jsonl --replicates 200 --output hh
}

show_calibrate() {
part "calibrate, and scores on one scale"
score 0 --model classifier --input rows.jsonl --output raw.jsonl; says "warning: scores of eng_Latn, swh_Latn, tur_Latn are on scales of their own"
expect 0 rm_score calibrate --model classifier --input rows.jsonl
for method in location_scale quantile; do
  score 0 --model classifier --input rows.jsonl --output $method.jsonl --calibrated $method
  holds $method.jsonl "all(abs(sum(r['score'] for r in rows if r['language'] == c)) / 200 < 0.05 for c in ('en', 'sw', 'tr')) and all('raw' in r for r in rows)"
done
}

show_check() {
part "check"
LINES_SHOWN=40 expect 1 rm_score check --model classifier --input rows.jsonl shapes.jsonl --set max_length=24
says "cut"; says "tok/char"; says "template"
echo '{"prompt": "q", "chosen": "same", "rejected": "same", "language": "en"}' > equal.jsonl
LINES_SHOWN=40 expect 1 rm_score check --model classifier --input equal.jsonl; says "same text"
LINES_SHOWN=12 expect 2 rm_score check --model nohead --input rows.jsonl; says "head|weights"
}

show_card() {
part "card: create, validate, show"
rm -rf carded; cp -r trl carded
expect 0 rm_score card create carded --licence apache-2.0 --training-languages en,sw --max-length 200
expect 0 rm_score card validate carded
expect 0 rm_score card show carded
sed -i 's/template_hash: .*/template_hash: deadbeefdeadbeef/' carded/card.yaml
expect 2 rm_score card validate carded; says template
score 2 --model carded --input rows.jsonl --output nothing.jsonl; says "the tokenizer.s chat template has"
}

show_agree() {
part "agree: a policy by language, and a scorer that follows it"
rm -f policy.yaml; expect 1 rm_score agree --family random --input pairs.jsonl --fallback-family length --default abstain --output policy.yaml
score 0 --family guarded --set "scorer={family: random}" --set "fallback={family: length}" --set policy=policy.yaml --input pairs.jsonl --output guarded.jsonl
holds guarded.jsonl "all('scored_by_chosen' in r for r in rows)"
}

show_invariance() {
part "invariance: batch, reuse, shards, order"
score 0 --model $RM --input rows.jsonl --output usual.jsonl
for o in device_batch_tokens=1 device_batch_tokens=700 prefix_reuse=false; do
  score 0 --model $RM --input rows.jsonl --output "i_$o.jsonl" --set $o
  "$PY" - "i_$o.jsonl" <<'P' || fail "$o changes scores"
import json, sys
a, b = ([json.loads(l)["score"] for l in open(f)] for f in ("usual.jsonl", sys.argv[1]))
worst = max(abs(x - y) for x, y in zip(a, b)); print(f"    largest difference {worst:.1e}"); assert worst < 1e-5
P
done
for i in 0 1 2; do score 0 --model $RM --input rows.jsonl --output sharded.jsonl --window 50 --shard $i/3; done
score 0 --model $RM --input rows.jsonl --output unsharded.jsonl --window 50
same sharded.jsonl unsharded.jsonl
LINES_SHOWN=2 score 0 --model $RM --input rows.jsonl --output devices.jsonl --window 50 --devices 2
same devices.jsonl unsharded.jsonl
}

show_vllm() {
part "vLLM: a classifier and a yes/no judge give the scores of transformers"
export VLLM_CPU_KVCACHE_SPACE=1
"$PY" -c "import sys; sys.path.insert(0, '$ROOT/tests'); from tiny_classifier import save_classifier; save_classifier('wide', head_dim=32)" 2>/dev/null
score 0 --model wide --input rows.jsonl --output hf.jsonl
LINES_SHOWN=2 score 0 --model wide --set backend=vllm --input rows.jsonl --output vllm.jsonl
score 0 --family judge --set path="$TINY" --set mode=yes_no --set 'engine={name: transformers}' --input pairs.jsonl --output yes_hf.jsonl
LINES_SHOWN=2 score 0 --family judge --set path="$TINY" --set mode=yes_no --set 'engine={name: vllm, dtype: float32}' --input pairs.jsonl --output yes_vllm.jsonl
"$PY" - <<'P' || fail "vLLM gives other scores"
import json
for pair, name in ((("hf.jsonl", "vllm.jsonl"), "score"), (("yes_hf.jsonl", "yes_vllm.jsonl"), "score_chosen")):
    a, b = ([json.loads(l)[name] for l in open(f)] for f in pair)
    worst = max(abs(x - y) for x, y in zip(a, b)); print(f"    {pair}: largest difference {worst:.1e}"); assert worst < 1e-5
P
}

show_bad() {
part "bad input: one clear message, nothing lost"
bad() { printf '%s\n' "$1" > bad.jsonl; score 2 --family length --input rows.jsonl bad.jsonl --output nothing.jsonl; says "$2"; [ ! -e nothing.jsonl ] || fail "something was written"; }
bad '{"prompt": "q"}' "bad.jsonl:1: needs prompt and response"
bad '{"prompt": "", "response": "a"}' "bad.jsonl:1: needs prompt"
bad '{"prompt": "q", "response": "a", "language": "swahilli"}' "language 'swahilli'"
bad '{"prompt": ' "bad.jsonl:1: is not JSON"
score 1 --family length --input rows.jsonl bad.jsonl --output skipped.jsonl --on-bad-row skip; says "rejected"
holds skipped.rejected.jsonl "len(rows) == 1 and 'line' in rows[0]"
score 2 --model nohead --input rows.jsonl --output nothing.jsonl; says "newly initialised"
score 2 --model notokenizer --input rows.jsonl --output nothing.jsonl; says "notokenizer: has no tokenizer"
score 2 --model nowhere/at/all --input rows.jsonl --output nothing.jsonl; says "neither a directory here nor a hub id"
printf '%s\n' '{"prompt": "a", "response": "b"}' '{"prompt": "qzqz", "response": "qzqz"}' > nan.jsonl
score 1 --model nan --input nan.jsonl --output nan_out.jsonl; says "without a score"; says "nan.jsonl:2 .not_finite"
holds nan_out.jsonl "isinstance(rows[0]['score'], float) and rows[1]['score'] is None"
score 0 --family length --input rows.jsonl --output taken.jsonl
score 2 --family length --input rows.jsonl --output taken.jsonl --window 51; says "from another run"
score 2 --family repetition --input rows.jsonl --output taken.jsonl; says "from another run"
score 2 --model $RM --set max_lenght=5 --input rows.jsonl --output nothing.jsonl; says "did you mean|max_length"
score 2 --family ensemble --set 'scorers=[{family: classifer, name: a}]' --input rows.jsonl --output nothing.jsonl; says "classifer"
}

show_kills() {
part "twenty kill -9 at random moments of a sharded run"
expect 0 "$PY" -m pytest -q -p no:cacheprovider --rootdir "$ROOT" -c "$ROOT/pyproject.toml" "$ROOT/tests/reward_models" -k "test_twenty_kills"
says "100%"
}

show_bare() {
part "installed without extras, in an environment of its own"
expect 0 "$PY" -m venv bare
rm -rf clone; git clone -q "$ROOT" clone
LINES_SHOWN=2 expect 0 bare/bin/python -m pip install -q ./clone
env -u PYTHONPATH PYTHONSAFEPATH=1 bare/bin/python -c "
import importlib.util as u
present = [n for n in ('trl', 'deepspeed', 'hydra', 'vllm') if u.find_spec(n)]
assert not present, present; print('    none of trl, deepspeed, hydra and vllm is there')" || fail "the light set is not light"
score 0 --model classifier --input rows.jsonl --output with_all.jsonl
expect 0 env -u PYTHONPATH bare/bin/rm-score score --quiet --model classifier --input rows.jsonl --output bare.jsonl
"$PY" -c "
import json
a, b = ([json.loads(l)['score'] for l in open(f)] for f in ('with_all.jsonl', 'bare.jsonl'))
print('    largest difference %.1e' % max(abs(x - y) for x, y in zip(a, b)))
assert max(abs(x - y) for x, y in zip(a, b)) < 1e-5" || fail "other scores"
expect 2 env -u PYTHONPATH bare/bin/rm-score score --quiet --family translation --input translations.jsonl --output nothing.jsonl; says "pip install"
}

for name in ${PARTS:-models trained formats layouts families judge server evaluate real calibrate check card agree invariance vllm bad kills bare}; do show_$name; done
part "all shown"
