#!/usr/bin/env bash
# test_pull.sh - inkstone pull and inkstone models: what is loaded, what is refused, what has which name.
. "$(dirname "$0")/pull_testing.sh"

# ---- what is loaded ----

test_plain() {
    start_hub "${network[@]}" --file "vae/empty.json 0 git 1" --file "scheduler/scheduler_config.json 485 git 9" \
        --file "README.md 9000 git 5" --file "transformer/diffusion_pytorch_model.fp16.safetensors 9000 lfs 5"
    run pull test/Mini
    expect "status 0" is "$status" 0
    expect "prints the name" prints mini
    expect "says how to draw" says "inkstone -m mini -p"
    expect "what is needed and nothing else" is "$(cd models/mini && find . -type f ! -name '*.lock' | sort | tr '\n' ' ')" \
        "./inkstone-pull.json ./model_index.json ./scheduler/scheduler_config.json ./transformer/config.json ./transformer/diffusion_pytorch_model.safetensors "
    expect "the right bytes" complete models/mini
    : >requests
    run pull test/Mini --json
    expect "status 0" is "$status" 0
    expect "one request is enough" is "$(n_requests)" 1
    expect "one line of JSON" is_json
    expect "nothing was fetched" prints '"fetched_bytes":0'
    run pull test/Mini -q
    expect "says nothing" is "$(cat "$err")" ""
    run models
    expect "is listed" prints "mini  pulled"
    run models --json
    expect "one line of JSON" is_json
    expect "as complete" prints '"repo":"test/Mini","commit":"0123456789abcdef0123456789abcdef01234567"'
    expect "as complete" prints '"complete":true'
    run inspect -m Mini
    expect "found by its name" says "models/mini/model_index.json"
    run inspect -m TEST/mini
    expect "found by its repository" says "models/mini/model_index.json"
    rm "$weights"
    refuses 1 'mini is not complete, 1 of its files are missing; to go on: inkstone pull test/Mini' inspect -m mini
    run models
    expect "listed as incomplete" prints "not complete: 1 files are missing"
    run pull test/Mini
    expect "and mended" complete models/mini
    stop_hub
}

test_choice() {
    start_hub "${bare[@]}" --file "inkstone.json 5 git 1" --file "README.md 5 git 1" --file ".gitattributes 5 git 1" \
        --file "tokenizer/vocab.json 5 git 1" --file "tokenizer/merges.txt 5 git 1" --file "tokenizer/chat_template.jinja 5 git 1" \
        --file "processor/tokenizer.json 5 git 1" --file "text_encoder/config.json 5 git 1" --file "text_encoder/model.bin 5 lfs 1" \
        --file "text_encoder/model.safetensors.index.json 5 git 1" --file "text_encoder/model-00001-of-00002.safetensors 5 lfs 1" \
        --file "text_encoder/model-00002-of-00002.safetensors 5 lfs 1" --file "text_encoder/model.safetensors 5 lfs 1" \
        --file "text_encoder/model.fp16-00001-of-00002.safetensors 5 lfs 1" --file "text_encoder/model.safetensors.index.fp16.json 5 git 1" \
        --file "vae/diffusion_pytorch_model.safetensors 5 lfs 1" --file "vae/diffusion_pytorch_model-00001-of-00002.safetensors 5 lfs 1" \
        --file "vae/model.onnx 5 lfs 1" --file "vae/old/config.json 5 git 1" --file "scheduler/scheduler_config.json 5 git 1"
    run pull test/Mini --dry-run
    expect "status 0" is "$status" 0
    expect "the files of the pipeline" is "$(awk '$2 == "missing" { print $3 }' "$out" | sort | tr '\n' ' ')" \
        "inkstone.json model_index.json scheduler/scheduler_config.json text_encoder/config.json text_encoder/model-00001-of-00002.safetensors text_encoder/model-00002-of-00002.safetensors text_encoder/model.safetensors.index.json tokenizer/merges.txt tokenizer/vocab.json vae/diffusion_pytorch_model.safetensors "
    expect "nothing was made" [ ! -e models ]
    run pull test/Mini --dry-run --json --only 'tokenizer/*'
    expect "one line of JSON" is_json
    expect "the plan" prints '"dry_run":true,"total_bytes":10,"missing_bytes":10'
    run pull test/Mini --only '*.json' -q
    run models
    expect "known as a part" prints "in part: 4 files were left out by --only"
    refuses 2 '--only nothing*: none of the 10 files of test/Mini matches' pull test/Mini --only 'nothing*'
    run pull test/Mini -q
    expect "the rest" is "$(find models -name '*.safetensors' | wc -l)" 3
    stop_hub
}

test_other_tokenizer() {
    start_hub "${bare[@]}" --file "tokenizer/tokenizer.json 5 git 1" --file "tokenizer/tokenizer_config.json 5 git 1" \
        --file "vae/diffusion_pytorch_model.safetensors 5 lfs 1"
    run pull test/Mini --dry-run
    expect "the only form that there is" prints tokenizer/tokenizer.json
    stop_hub
}

# ---- what is refused ----

test_no_hope() {
    start_hub "${network[@]}" --rule "*/resolve/*.safetensors flip x -1"
    refuses_pull 1 'do not have the hash that the hub lists, twice' test/Mini
    expect "keeps nothing of it" is "$(find models -name '*.safetensors*')" ""
    stop_hub
    start_hub "${network[@]}" --rule "*/resolve/*.safetensors longer 10 -1"
    refuses_pull 1 'the answer has a length of 3000010, expected 3000000' test/Mini --tries 2
    stop_hub
    start_hub "${network[@]}" --rule "*/resolve/*.safetensors status 500 -1"
    refuses_pull 1 'answers 500' test/Mini --tries 2
    stop_hub
    start_hub "${network[@]}" --rule "*/resolve/*.safetensors later 7200 -1"
    refuses_pull 1 'the server asks to come back in 120 minutes' test/Mini
    stop_hub
    start_hub "${network[@]}" --rule "/api/* later 7200 -1"
    refuses_pull 1 'test/Mini: the server asks to come back in 120 minutes' test/Mini
    stop_hub
    start_hub "${network[@]}" --rule "*/resolve/*.safetensors redirect loop -1"
    refuses_pull 1 'redirected too often' test/Mini
    stop_hub
    start_hub "${network[@]}" --rule "*/resolve/*.safetensors redirect file:///etc/passwd -1"
    refuses_pull 1 'redirects to "file:///etc/passwd", which is not to be trusted' test/Mini
    stop_hub
    start_hub "${network[@]}" --rule "/api/* garbage x -1"
    refuses_pull 1 'the answer is no JSON' test/Mini
    refuses_pull 2 '"mini" is no repository' mini
    refuses_pull 2 'is no repository' test/../x
    stop_hub
    refuses_pull 1 "connect" test/Mini --tries 1
    start_hub "${network[@]}" --rule "*/resolve/*.safetensors status 404 -1"
    refuses_pull 1 'diffusion_pytorch_model.safetensors: not found (404)' test/Mini
    refuses_pull 1 "not found (404): $HF_ENDPOINT has no none/such with revision v9" none/such --revision v9
    stop_hub
    start_hub --file "README.md 10 git 1"
    refuses_pull 1 'no pipeline in the published layout' test/Mini
    stop_hub
    HF_ENDPOINT=ftp://localhost refuses_pull 2 'HF_ENDPOINT is "ftp://localhost"' test/Mini
}

# As refuses, but what arrived may stay.
refuses_pull() {
    local wanted=$1 sentence=$2
    shift 2
    run pull "$@"
    expect "exit status $wanted" is "$status" "$wanted"
    expect "one sentence" is "$(grep -c '^inkstone: ' "$err")" 1
    expect "says: $sentence" says "$sentence"
    expect "prints nothing" is "$(cat "$out")" ""
}

test_foreign_names() {
    local name
    for name in ../evil /etc/evil vae/../../evil 'vae\\..\\evil' 'C:evil' 'vae/e^vil' vae//evil vae/./evil vae/.. x.partial inkstone-pull.json; do
        start_hub "${network[@]}" --file "$name 10 git 1"
        refuses_pull 1 'refusing the file name' test/Mini
        expect "nothing was made for $name" [ ! -e models ]
        stop_hub
    done
    start_hub "${network[@]}" --commit ../../evil
    refuses_pull 1 '"sha" is no commit' test/Mini
    stop_hub
    start_hub "${network[@]}" --file "vae/config.json -5 git 1"
    refuses_pull 1 'the size or the hash is none' test/Mini
    stop_hub
}

test_token() {
    start_hub "${network[@]}" --token hf_secret --rule "/test/*.safetensors redirect cdn -1"
    refuses_pull 1 'or it takes a token: set HF_TOKEN' test/Mini
    HF_TOKEN=hf_wrong refuses_pull 1 'the token is wrong or has no right to it' test/Mini
    HF_TOKEN=$'hf\nx' refuses_pull 2 'holds characters that no token has' test/Mini
    mkdir hf
    echo hf_secret >hf/token
    HF_HOME=$PWD/hf run pull test/Mini
    expect "the token of the file opens it" complete models/mini
    expect "the hub gets the token" grep -q 'resolve.*safetensors .*auth=yes host=127.0.0.1' requests
    expect "the other host was asked" grep -q '^/cdn/.*host=localhost' requests
    expect "and does not get the token" is "$(grep -c '^/cdn/.*auth=yes' requests)" 0
    expect "no token in what is kept" [ -z "$(grep -r hf_secret models)" ]
    stop_hub
}

test_lock() {
    start_hub "${network[@]}" --rule "*/resolve/*.safetensors slow 1500000"
    "$cli" pull test/Mini -q >/dev/null 2>&1 &
    local first=$!
    sleep 0.7
    refuses_pull 1 "another pull (process $first) is loading into" test/Mini
    wait $first
    expect "the first one ends well" is $? 0
    expect "the right bytes" complete models/mini
    stop_hub
}

test_not_ours() {
    start_hub "${network[@]}"
    run pull test/Mini -q
    mkdir -p other/mini/transformer
    cp "$weights" other/mini/transformer
    export INK_MODELS=$PWD/other
    : >requests
    run pull test/Mini -q
    expect "the right file is taken as it is" is "$(n_requests safetensors)" 0
    expect "and known" complete other/mini
    rm -r other/mini
    mkdir -p other/mini/transformer
    echo mine >other/mini/transformer/config.json
    refuses_pull 1 'config.json is in the way and was not put there by a pull' test/Mini
    expect "what is there stays" is "$(cat other/mini/transformer/config.json)" mine
    expect "and is no pull that is not complete" [ ! -e other/mini/inkstone-pull.json ]
    refuses_pull 1 'config.json is in the way' test/Mini --dry-run
    head -c 700 /dev/zero >other/mini/transformer/config.json
    refuses_pull 1 'config.json is another file than the hub' test/Mini
    rm other/mini/transformer/config.json
    ln -s /dev/null other/mini/transformer/config.json.partial
    refuses_pull 1 'cannot write' test/Mini
    rm other/mini/transformer/config.json.partial
    run pull else/mini
    stop_hub
    start_hub "${network[@]}"
    export INK_MODELS=$PWD/other
    run pull test/Mini -q
    sed -i 's|test/Mini|else/Mini|' other/mini/inkstone-pull.json
    refuses_pull 1 'holds else/Mini already' test/Mini
    echo '{"format": 1' >other/mini/inkstone-pull.json
    refuses_pull 1 'inkstone-pull.json is damaged' test/Mini
    stop_hub
}

test_full_disk() {
    start_hub "${bare[@]}" --file "vae/diffusion_pytorch_model.safetensors 140737488355328 lfs 7"
    refuses_pull 1 '128.0 TiB more are needed in' test/Mini
    expect "nothing was asked for" is "$(n_requests resolve)" 0
    stop_hub
    start_hub "${network[@]}"
    (
        ulimit -f 1000
        "$cli" pull test/Mini >"$out" 2>"$err"
        echo $? >"$scratch/status"
    )
    expect "status 1" is "$(cat "$scratch/status")" 1
    expect "says where" says "cannot write $PWD/$weights.partial"
    run pull test/Mini
    expect "and goes on" complete models/mini
    stop_hub
}

test_newer_revision() {
    start_hub "${network[@]}" --file "vae/old.safetensors 5000 lfs 8"
    run pull test/Mini -q
    expect "the old revision" [ -e models/mini/vae/old.safetensors ]
    echo mine >models/mini/vae/mine.safetensors
    stop_hub
    start_hub "${bare[@]}" --commit aaaaaaaaaa --file "transformer/config.json 700 git 2" \
        --file "transformer/diffusion_pytorch_model.safetensors 3000000 lfs 33" --rule "*.safetensors cut 100000" \
        --rule "*.safetensors status 403 -1"
    refuses_pull 1 'refuses access (403)' test/Mini
    run models
    expect "half way" prints "not complete: 1 files are missing"
    stop_hub
    start_hub "${bare[@]}" --commit aaaaaaaaaa --file "transformer/config.json 700 git 2" \
        --file "transformer/diffusion_pytorch_model.safetensors 3000000 lfs 33"
    run pull test/Mini -q
    expect "status 0" is "$status" 0
    expect "the new bytes" nothing_wrong_in models/mini
    expect "goes on within the new file" grep -q 'safetensors from=[1-9]' requests
    expect "what is the same is not loaded again" is "$(n_requests config.json)" 0
    expect "what the new one lacks is removed" [ ! -e models/mini/vae/old.safetensors ]
    expect "what is not ours stays" [ -e models/mini/vae/mine.safetensors ]
    stop_hub
}

# ---- what is there ----

test_names() {
    export INK_MODELS=$PWD/models HF_HUB_CACHE=$PWD/cache
    local a=1111111111111111111111111111111111111111 b=2222222222222222222222222222222222222222
    mkdir -p models/by-hand models/no-model "cache/models--Org--Some-Model/refs" cache/models--x cache/datasets--a--b
    cp -r "$tiny/." models/by-hand
    mkdir -p "cache/models--Org--Some-Model/snapshots/$a" "cache/models--Org--Some-Model/snapshots/$b"
    cp -r "$tiny/." "cache/models--Org--Some-Model/snapshots/$a"
    cp -r "$tiny/." "cache/models--Org--Some-Model/snapshots/$b"
    printf '%s' "$a" >"cache/models--Org--Some-Model/refs/main"
    run models
    expect "a folder" prints "by-hand"
    expect "a model of the cache" prints "some-model  cache"
    expect "by its main revision" prints "snapshots/$a"
    expect "no other folders" is "$(grep -c no-model "$out")" 0
    run tokenize -m by-hand "a red circle"
    expect "by name" is "$status" 0
    run tokenize -m some-model "a red circle"
    expect "of the cache" is "$status" 0
    run tokenize -m Org/Some-Model "a red circle"
    expect "by its repository" is "$status" 0
    INK_MODEL=some-model run tokenize "a red circle"
    expect "by INK_MODEL" is "$status" 0
    printf '../../..' >"cache/models--Org--Some-Model/refs/main"
    rm -r "cache/models--Org--Some-Model/snapshots/$a"
    run models
    expect "another revision where main is none" prints "snapshots/$b"
    refuses 1 'nowhere: there is no such folder and no model of that name; there are: by-hand, some-model' tokenize -m nowhere x
    mkdir by-hand
    refuses 1 'by-hand' inspect -m by-hand # the folder here comes first
    unset HF_HUB_CACHE
}

run_tests
