# pull_testing.sh - what the tests of inkstone pull share: a hub on 127.0.0.1 that misbehaves as told (hub_server, which
# INK_TEST_HUB names), small repositories, and what must be so of a folder at any moment. No other machine is asked.
. "$(dirname "$0")/cli_testing.sh"

unset http_proxy HTTP_PROXY https_proxy HTTPS_PROXY all_proxy ALL_PROXY
unset XDG_CACHE_HOME XDG_DATA_HOME HUGGING_FACE_HUB_TOKEN HUGGINGFACE_HUB_CACHE
for name in $(compgen -v HF_); do unset "$name"; done
export HOME=$scratch/home
mkdir "$HOME"
server=$(realpath "$INK_TEST_HUB")

# start_hub OPTIONS... - sets HF_ENDPOINT and an empty INK_MODELS, both of this test.
start_hub() {
    exec 5< <(exec "$server" --log "$PWD/requests" "$@" 2>"$PWD/server")
    hub=$!
    read -r port <&5
    export HF_ENDPOINT=http://127.0.0.1:$port INK_MODELS=$PWD/models
}

stop_hub() {
    kill "$hub" 2>/dev/null
    wait "$hub" 2>/dev/null
    exec 5<&-
}

# What makes a repository one: enough for the choice of files, and no more bytes than a test wants.
bare=(--file "model_index.json 400 git 1")
network=("${bare[@]}" --file "transformer/config.json 700 git 2"
    --file "transformer/diffusion_pytorch_model.safetensors 3000000 lfs 3")
weights=models/mini/transformer/diffusion_pytorch_model.safetensors

# "HASH  PATH" for each file of a record that has a SHA-256.
hashes_of() { awk -F'"' '$2 == "path" { path = $4 } $2 == "sha256" { print $4 "  " path }' "$1/inkstone-pull.json"; }

# Every file of a folder that has its final name has the hash of the record.
nothing_wrong_in() {
    [ -e "$1/inkstone-pull.json" ] || return 0
    (cd "$1" && hashes_of . | while read -r hash path; do [ ! -e "$path" ] || echo "$hash  $path"; done >../hashes)
    [ ! -s "$1/../hashes" ] || (cd "$1" && sha256sum --status -c ../hashes)
}

complete() { [ -z "$(find "$1" -name '*.partial')" ] && [ -n "$(find "$1" -name '*.safetensors')" ] && nothing_wrong_in "$1"; }
n_requests() { grep -c "${1:-.}" requests; }
