/*
 * inkstone.h - the public interface of Inkstone: text-to-image with the Qwen-Image family.
 *
 *     ink_error error;
 *     ink_model *model = NULL;
 *     ink_session *session = NULL;
 *     ink_image *image = NULL;
 *     ink_request request;
 *
 *     if (ink_model_open(&model, "models/demo", NULL, &error) == INK_OK &&
 *         ink_session_create(&session, model, NULL, &error) == INK_OK) {
 *         ink_request_init(&request, model);
 *         request.prompt = "a red circle on a blue background";
 *         if (ink_generate(session, &request, &image, &error) == INK_OK)
 *             use(ink_image_pixels(image), ink_image_width(image), ink_image_height(image));
 *     }
 *     if (error.status != INK_OK) fprintf(stderr, "%s\n", error.message);
 *     ink_image_destroy(&image);
 *     ink_session_destroy(&session);
 *     ink_model_close(&model);
 *
 * Conventions. Every function that can fail returns an ink_status and, through its last argument, the sentence that says
 * what was wrong, where, and what was expected; that argument may be NULL, others only where it is said. Functions that end
 * the life of a handle take its address, accept a null handle and leave null behind. Strings are UTF-8 and, unless a comment says
 * otherwise, borrowed for the call. The library never prints, exits or aborts.
 *
 * Threads. An ink_model is immutable: any number of sessions, one per thread, may share it. An ink_session belongs to one
 * thread at a time; only ink_session_cancel may be called from another thread or from a signal handler.
 */
#ifndef INKSTONE_H
#define INKSTONE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define INK_API __attribute__((visibility("default")))
#else
#define INK_API
#endif

#define INK_VERSION_MAJOR 0
#define INK_VERSION_MINOR 1
#define INK_VERSION_PATCH 0

/* "0.1.0". Static storage. */
INK_API const char *ink_version(void);

/* ---- errors ---------------------------------------------------------------------------------------------------- */

typedef enum ink_status {
    INK_OK = 0,
    INK_ERROR_ARGUMENT,    /* the caller asked for something that makes no sense: a width of 0, a NaN guidance */
    INK_ERROR_IO,          /* a file could not be opened, read or written */
    INK_ERROR_FORMAT,      /* a file is not what it should be: truncated, lying, a tensor of the wrong shape */
    INK_ERROR_UNSUPPORTED, /* a well-formed thing that this library does not run: another model family */
    INK_ERROR_MEMORY,      /* too little memory */
    INK_ERROR_CANCELLED,   /* ink_session_cancel, or a progress callback that returned non-zero */
    INK_ERROR_INTERNAL,    /* a defect of the library itself */
    INK_ERROR_DEVICE       /* a GPU failed */
} ink_status;

/* Filled by every call that takes one: status INK_OK and an empty message on success. */
typedef struct ink_error {
    ink_status status;
    char message[1000]; /* one sentence, no trailing newline */
} ink_error;

/* A short English name of a status, such as "format". Static storage. */
INK_API const char *ink_status_name(ink_status status);

/* ---- model ----------------------------------------------------------------------------------------------------- */

typedef struct ink_model ink_model;

typedef enum ink_precision {
    INK_PRECISION_AUTO = 0, /* as the transformer is stored: F32, BF16, or every matrix as it is where forms are mixed */
    INK_PRECISION_F32,      /* all arithmetic and weights in f32: the reference mode */
    INK_PRECISION_BF16,     /* weights in 16 bits; sums, residual stream, norms, softmax and latents in f32 */
    INK_PRECISION_FP8,      /* matrices in 8-bit floats (e4m3) with a scale for each row, but for the network's ends */
    INK_PRECISION_Q8,       /* matrices in 8-bit integers in groups of 64 with scale and bias, but for the network's ends */
    INK_PRECISION_Q4,       /* the same in 4 bits */
    /*
     * Matrices in 8-bit integers with a scale for each row, but for the network's ends; the transformer's steps multiply them
     * by rows that are rounded to 8-bit integers too.
     */
    INK_PRECISION_INT8
} ink_precision;

typedef struct ink_model_options {
    ink_precision precision;
    /*
     * Parts that do not lie in the folder, or of which it holds several; NULL: the folder's. A file is safetensors or GGUF, with
     * the names of diffusers, ComfyUI, llama.cpp or mflux; a folder is one of the published layout ("transformer").
     */
    const char *transformer_file, *text_encoder_file, *vae_file;
    const char *tokenizer_dir; /* with vocab.json and merges.txt, or with tokenizer.json */
    /* NULL, or what a session of this process will use, as in ink_session_options: a GPU takes some tenths of a second to get
       ready, which it does while files are read. What cannot be used is told by ink_session_create. */
    const char *backend;
    /* NULL, or an open model of the same tokenizer: it is shared, not read again, which takes most of the time of opening. Either
       model may be closed first. */
    const ink_model *same_tokenizer;
} ink_model_options;

/*
 * Opens a checkpoint: reads and checks every config and every tensor header, and maps the files. Weights are loaded later, when a
 * picture needs them. dir is a folder in the published (diffusers) layout, or one that holds single files, which are known by
 * their content; it may be NULL when options name every part. What has no config.json is measured by its tensors.
 * options may be NULL for the defaults. On failure *model is NULL.
 * Errors: IO (no such folder, a missing shard), FORMAT (damaged or lying files), UNSUPPORTED (another family; it is named),
 * ARGUMENT (a part that is neither in dir nor in options).
 */
INK_API ink_status ink_model_open(ink_model **model, const char *dir, const ink_model_options *options, ink_error *error);
INK_API void ink_model_close(ink_model **model);

/* "f32", "bf16", "fp8", "q8", "q4", "int8", or "as stored" where the files mix forms: what INK_PRECISION_AUTO became. Static
   storage. */
INK_API const char *ink_model_precision(const ink_model *model);

/*
 * What a user should know of how the model was put together: which of two files was taken, and how to choose the other. Sentences,
 * valid as long as the model; NULL from i = their number on.
 */
INK_API const char *ink_model_note(const ink_model *model, size_t i);

/* ---- tokenizer, and looking into a checkpoint ------------------------------------------------------------------- */

/*
 * Encodes the bare text (no template) with DIR/tokenizer; nothing else of the folder is read if it has one.
 * *ids is allocated by the library: release with ink_free.
 */
INK_API ink_status ink_tokenize(const char *dir, const char *text, int32_t **ids, size_t *n_ids, ink_error *error);
INK_API void ink_free(void *memory);

typedef struct ink_component_report {
    const char *name;       /* "transformer" */
    const char *class_name; /* "QwenImageTransformer2DModel" */
    const char *dtypes;     /* "BF16", or "BF16 1900, F32 33": tensors of each type; "" for a component without weights */
    int64_t n_files;
    int64_t n_tensors;
    int64_t n_parameters; /* without the scales of small types, when the network is known */
    int64_t n_bytes;
    size_t n_missing; /* tensors that the network needs and the files lack */
    const char *const *missing;
    size_t n_unexpected; /* tensors that the files hold and the network does not know */
    const char *const *unexpected;
    const char *problem;   /* why the component cannot be used, or NULL */
    const char *path;      /* of its file or folder; "" where there is none */
    const char *container; /* "safetensors" or "GGUF"; "" for a component without weights */
    const char *runs;      /* how its matrices are used: "Q4_K decoded while multiplying, BF16 in place"; "" as above */
} ink_component_report;

typedef struct ink_report {
    const char *class_name; /* of the pipeline, "QwenImagePipeline" */
    size_t n_components;
    const ink_component_report *components;
    size_t n_notes; /* as of ink_model_note */
    const char *const *notes;
} ink_report;

/*
 * Reads configs and tensor headers only. dir and options as in ink_model_open. *report is owned by the caller; release with
 * ink_report_destroy.
 */
INK_API ink_status ink_inspect(ink_report **report, const char *dir, const ink_model_options *options, ink_error *error);
INK_API void ink_report_destroy(ink_report **report);

/* ---- request --------------------------------------------------------------------------------------------------- */

typedef enum ink_rng {
    INK_RNG_TORCH_CPU = 0,  /* torch.Generator("cpu"): mt19937 */
    INK_RNG_TORCH_CPU_2_13, /* the same as newer torch draws bf16 with it: the f32 sample, rounded */
    INK_RNG_TORCH_CUDA      /* torch.Generator("cuda"): Philox 4x32-10, depends on the GPU for large pictures */
} ink_rng;

typedef enum ink_noise_dtype {
    INK_NOISE_AUTO = 0, /* the model's precision, as the reference does */
    INK_NOISE_F32,
    INK_NOISE_BF16 /* with INK_RNG_TORCH_CPU, as torch up to 2.11 draws it, another sample than f32, not its rounding */
} ink_noise_dtype;

typedef enum ink_phase {
    INK_PHASE_LOAD = 0, /* of weights, before each phase that needs some; on a GPU also within the first step */
    INK_PHASE_TEXT,     /* text encoder */
    INK_PHASE_PREPARE,  /* modulation of all steps, position tables */
    INK_PHASE_DENOISE,  /* one unit per step */
    INK_PHASE_DECODE,   /* VAE */
    INK_N_PHASES
} ink_phase;

typedef struct ink_progress {
    ink_phase phase;
    int64_t done;         /* units of this phase that are done, 0..total */
    int64_t total;        /* units of this phase */
    double fraction;      /* of the work of this phase, 0..1: also moves between units, about ten times a second */
    double phase_seconds; /* that this fraction took: without a first step that waited for weights */
} ink_progress;

/* Called on the thread that runs ink_generate. Return non-zero to cancel. */
typedef int (*ink_progress_fn)(void *user, const ink_progress *progress);

/* A LoRA for one request: a safetensors file, or a folder that PEFT saved. */
typedef struct ink_lora {
    const char *path;
    double scale; /* 1: as trained */
} ink_lora;

typedef struct ink_request {
    const char *prompt;
    const char *negative_prompt; /* NULL: none, and then no guidance, as in the reference */
    int64_t width, height;       /* pixels, multiples of 16 */
    int64_t steps;
    double guidance; /* true_cfg_scale; active when > 1 and a negative prompt is given */
    uint64_t seed;
    ink_rng rng;
    int64_t cuda_sms;            /* INK_RNG_TORCH_CUDA: multiprocessors of the GPU to agree with; 132 is an H100 or H200 */
    int64_t cuda_threads_per_sm; /* ... and resident threads of each: 2048, on consumer Ampere and Ada 1536 */
    ink_noise_dtype noise_dtype;
    const ink_lora *loras; /* [n_loras], applied together; every tensor must fit, else the request fails */
    size_t n_loras;
    int merge_loras; /* add them to the weights while loading, not beside them while drawing: for weights of 16 bits and more */
    /*
     * The schedule's shift at its small and its large picture, as exponents, and where its last noise level is stretched to (0:
     * nowhere). NAN, each by itself: the model's.
     */
    double base_shift, max_shift, shift_terminal;
    /*
     * The most memory that the process shall use, its own and what it uses of mapped files, in bytes: blocks that do not fit are
     * read again at each step. The picture is the same. 0: no limit, unless the weights do not fit what is available.
     */
    int64_t ram_budget;
    /*
     * The most of a GPU's memory; 0: what it can give. Blocks of the transformer and layers of the text encoder that do not fit
     * wait in page-locked memory of the host and come to the GPU each time that they are used. The picture is the same.
     */
    int64_t vram_budget;
    const char *dump_path;    /* NULL, or a safetensors file that receives every stage; see docs/numerics.md */
    ink_progress_fn progress; /* may be NULL */
    void *progress_user;
} ink_request;

/* Fills *request with the model's defaults (and seed 0, no prompt). Strings point into the model. */
INK_API void ink_request_init(ink_request *request, const ink_model *model);

/*
 * The spelling of a generator: "torch-cpu", "torch-cpu-2.13", "torch-cuda" (132 multiprocessors of 2048 threads),
 * "torch-cuda:128" or "torch-cuda:128x1536". Sets rng and, for CUDA, cuda_sms and cuda_threads_per_sm. Errors: ARGUMENT.
 */
INK_API ink_status ink_request_set_rng(ink_request *request, const char *text, ink_error *error);
/* The same back, at most 40 bytes with the final zero. */
INK_API void ink_request_get_rng(const ink_request *request, char *text, size_t size);

/*
 * Steps, guidance and schedule that a distilled LoRA was trained for: "lightning-4" or "lightning-8" (steps; no guidance, a shift
 * of 3). What is set afterwards overrides it. Errors: ARGUMENT.
 */
INK_API ink_status ink_request_set_preset(ink_request *request, const char *name, ink_error *error);

/* Checks a request without doing any work. Errors: ARGUMENT. */
INK_API ink_status ink_request_check(const ink_request *request, const ink_model *model, ink_error *error);

typedef struct ink_memory_plan {
    int64_t mapped_bytes;    /* weights used in place from the mapped files: page cache, may be dropped and read again */
    int64_t weight_bytes;    /* weights held in memory of our own at the fullest moment */
    int64_t scratch_bytes;   /* activations and tables at the fullest moment */
    int64_t peak_bytes;      /* of weights and scratch together, over all phases */
    int64_t available_bytes; /* what the machine can give now; 0 if unknown */
    int64_t prompt_tokens, negative_tokens; /* of the texts, without the template */
    int64_t prompt_cut, negative_cut;       /* ... that the model does not read, because there are too many */
    int64_t lora_tensors;                   /* of all LoRA files, all of which fit */
    int64_t budget_bytes;    /* the request's, or one that was chosen because the weights do not fit; 0: none, all weights stay */
    int64_t least_bytes;     /* the smallest budget that is possible */
    int64_t blocks;          /* of the transformer ... */
    int64_t streamed_blocks; /* ... of which so many are read again at each step, or with a GPU come to it at each step, */
    int64_t streamed_bytes;  /* ... and that many bytes */
    /* With a GPU: weights and all of its memory at the fullest moment, and what it can give; 0 without. */
    int64_t gpu_weight_bytes, gpu_peak_bytes, gpu_available_bytes;
    int gpu_keeps_weights;                     /* for the next picture; else each network leaves after its use */
    int64_t gpu_least_bytes;                   /* the smallest budget that is possible */
    int64_t gpu_host_bytes;                    /* of page-locked memory of the host, for what comes and goes */
    int64_t text_layers, streamed_text_layers; /* the same as of blocks, for the prompts */
} ink_memory_plan;

/* What a request will need, before anything is loaded: a dry run. Errors: ARGUMENT, IO and FORMAT (a LoRA), MEMORY (also a
   budget that is too small). */
INK_API ink_status ink_plan(ink_memory_plan *plan, const ink_model *model, const ink_request *request, ink_error *error);

/* ---- session and generation ------------------------------------------------------------------------------------- */

typedef struct ink_session ink_session;
typedef struct ink_image ink_image;

typedef struct ink_session_options {
    int64_t threads; /* 0: one per core this process may use */
    const char *cpu; /* NULL or "auto": the best tier here; or the name of a tier, such as "ref", "c", "avx2", "neon" */
    const char
        *backend; /* "cpu", "cuda", or "cuda:1" for another GPU; NULL or "auto": a GPU if one can be used and no tier is named */
} ink_session_options;

/* The session borrows the model, which must outlive it. options may be NULL. */
INK_API ink_status ink_session_create(ink_session **session, ink_model *model, const ink_session_options *options,
                                      ink_error *error);
INK_API void ink_session_destroy(ink_session **session);

/* As ink_plan, for the session that is to draw, whose GPU, if it has one, holds the weights. When its memory is too small the call
   fails (MEMORY), and the plan says what would be needed. */
INK_API ink_status ink_session_plan(ink_memory_plan *plan, const ink_session *session, const ink_request *request,
                                    ink_error *error);

/* Makes the running ink_generate, or if none runs the next one, return INK_ERROR_CANCELLED soon. Safe in a signal handler and from
   any thread. */
INK_API void ink_session_cancel(ink_session *session);

/* Draws one picture. *image is owned by the caller. On failure *image is NULL and nothing half-written is left. */
INK_API ink_status ink_generate(ink_session *session, const ink_request *request, ink_image **image, ink_error *error);

typedef struct ink_stats {
    double phase_seconds[INK_N_PHASES];
    double total_seconds;
    int64_t peak_bytes; /* weights and scratch of our own, as counted */
    int64_t nan_pixels; /* that are no numbers, and black: a weight is damaged, or too large for this precision */
    int64_t threads;
    const char *cpu; /* tier that ran, "cuda" for a GPU; static storage */
} ink_stats;

/* Why "auto" took no GPU; NULL when it did, or was not asked. Valid while the session is. */
INK_API const char *ink_session_no_gpu(const ink_session *session);

/* Of the last ink_generate of this session. */
INK_API void ink_session_stats(ink_stats *stats, const ink_session *session);

INK_API int64_t ink_image_width(const ink_image *image);
INK_API int64_t ink_image_height(const ink_image *image);
/* [height, width, 3] RGB bytes, row-major, owned by the image. */
INK_API const uint8_t *ink_image_pixels(const ink_image *image);
INK_API void ink_image_destroy(ink_image **image);

/* ---- verification ---------------------------------------------------------------------------------------------- */

typedef struct ink_verify_row {
    const char *stage; /* "latents" */
    int64_t shape[3];  /* as in the file; unused dimensions are 0 */
    double max_error;  /* largest absolute difference */
    double relative_l2;
    double last_relative_l2; /* of the last step alone, for latents; NaN for other stages */
    double psnr;             /* dB with a peak of 1, for the image; NaN for other stages */
    const char *limit;       /* what was required, in words: "relative L2 <= 2e-06" */
    int passed;
    char note[160]; /* why a row failed without numbers (wrong shape), or "" */
} ink_verify_row;

typedef struct ink_verification {
    size_t n_rows;
    const ink_verify_row *rows;
    int passed; /* all of them */
} ink_verification;

/*
 * Repeats the request that is recorded in reference_path (by ink_request.dump_path or by tools/make_reference.py) and
 * compares every stage. A difference is not an error: the call succeeds and says so in *verification, which the caller
 * releases with ink_verification_destroy. Progress is reported as in a request.
 */
INK_API ink_status ink_verify(ink_session *session, const char *reference_path, ink_progress_fn progress, void *progress_user,
                              ink_verification **verification, ink_error *error);
INK_API void ink_verification_destroy(ink_verification **verification);

/* ---- writing a model in another precision ------------------------------------------------------------------------ */

typedef struct ink_quantize_progress {
    const char *activity; /* "calibrating", "writing" */
    int64_t done_bytes;   /* of the source */
    int64_t total_bytes;
    double seconds; /* of this activity */
} ink_quantize_progress;

typedef enum ink_calibration {
    INK_CALIBRATE_AUTO = 0, /* when the weights of the source have less than 2 GB */
    INK_CALIBRATE_ON,
    INK_CALIBRATE_OFF
} ink_calibration;

typedef struct ink_quantize_options {
    ink_precision precision; /* BF16, FP8, Q8, Q4 or INT8 */
    const char *const *keep; /* [n_keep], may be NULL: patterns of tensor names (of fnmatch) that keep 16 bits */
    size_t n_keep;
    const ink_model_options *source; /* may be NULL; its precision has no effect */
    ink_calibration calibration;
    int64_t shard_bytes; /* the largest file of weights; 0: 5 GB */
    int64_t threads;     /* 0: one per core this process may use */
    int dry_run;         /* only count: out is not looked at, and nothing is measured */
    int (*progress)(void *user, const ink_quantize_progress *progress); /* may be NULL. Return non-zero to cancel. */
    void *progress_user;
} ink_quantize_options;

typedef struct ink_quantize_row {
    const char *component; /* "transformer" */
    const char *name;      /* of the tensor in the file */
    const char *stored;    /* "Q4", "BF16": how it is written */
    int quantised;         /* written smaller than 16 bits, by this call */
    int64_t bytes;         /* with scales and biases */
    double weight_error;   /* relative L2 of what was written; NaN in a dry run */
    double output_error;   /* relative L2 of the layer's output on the calibration run; NaN: not measured */
} ink_quantize_row;

typedef struct ink_quantize_report {
    size_t n_rows;
    const ink_quantize_row *rows; /* of every tensor that is written */
    int64_t source_bytes, bytes;  /* of all tensors */
    const char *calibration;      /* what was run, or why nothing was: a sentence */
} ink_quantize_report;

/*
 * Writes a model to a new folder in the published layout, its matrices in another precision; see docs/formats.md. It draws the same
 * pictures, bit for bit, as the source opened with that precision. Works row by row: memory does not grow with the model, but
 * for the calibration run. out must not exist or be an empty folder; it appears when it is complete.
 * *report is owned by the caller; release with ink_quantize_report_destroy. report may be NULL.
 * Errors: as ink_model_open; ARGUMENT (a precision, a pattern that fits no tensor), UNSUPPORTED (a source whose blocks of GGUF
 * cannot be written), IO, MEMORY, CANCELLED. Nothing that can be opened is left then.
 */
INK_API ink_status ink_quantize_model(ink_quantize_report **report, const char *dir, const char *out,
                                      const ink_quantize_options *options, ink_error *error);
INK_API void ink_quantize_report_destroy(ink_quantize_report **report);

/* ---- measuring -------------------------------------------------------------------------------------------------- */

/* What to time, as bits. Without any: all of them. */
enum {
    INK_BENCH_TEXT = 1,       /* the text encoder, one prompt */
    INK_BENCH_MODULATION = 2, /* the modulation of all steps */
    INK_BENCH_DENOISE = 4,    /* forwards of the transformer */
    INK_BENCH_DECODE = 8      /* the VAE */
};

typedef struct ink_bench_size {
    int64_t width, height; /* pixels, as in a request */
} ink_bench_size;

typedef struct ink_bench_time {
    double min, median; /* seconds; both 0 when it was not measured */
    double flops;       /* of one run: two for each product that linear layers, attention and convolutions add up */
    int64_t runs;
} ink_bench_time;

/* One precision at one size. */
typedef struct ink_bench_case {
    const char *architecture; /* as asked for */
    const char *backend;      /* "cpu". Static storage, as the tier */
    const char *tier;
    int64_t threads;
    ink_precision precision;
    int64_t width, height, batch, text_tokens;
    int64_t blocks, whole_blocks; /* that were run; that the architecture has */
    int64_t steps;                /* of modulation, and of a whole picture */
    int picture;                  /* whether a whole picture was drawn */
    /* The passes of a step go through each block together: forward is a step divided by batch. */
    ink_bench_time text, modulation, step, forward, block, decode;
    ink_bench_time floor;                    /* of forward, on a GPU: its products and attentions alone, run in turn with it */
    double total_seconds;                    /* of a whole picture: all phases, without filling; else 0 */
    int64_t streamed_blocks, streamed_bytes; /* of a whole picture within a budget: that come to the GPU at each step */
    double fill_seconds;                     /* making the random weights, in no other figure */
    int64_t weight_bytes;                    /* the most held at a time: of weights, of scratch, of both together, as counted */
    int64_t scratch_bytes;
    int64_t peak_bytes;
    int64_t process_peak_bytes;   /* the most that was resident, as the system counts; 0: unknown */
    double roofline_flops;        /* per second, of the tier's inner loop, fed from the cache; 0: it has none */
    double read_bytes_per_second; /* of memory beyond the caches */
    double copy_bytes_per_second; /* read and written together */
} ink_bench_case;

typedef struct ink_bench_options {
    /*
     * "qwen-image": the sizes of the published networks; "qwen-image:N": N blocks of the transformer instead of all. "tiny": sizes
     * that take no time, to try things out.
     */
    const char *synthetic;
    const ink_bench_size *sizes; /* [n_sizes]; none: 512 x 512 and 1024 x 1024 */
    size_t n_sizes;
    const ink_precision *precisions; /* [n_precisions], AUTO being BF16; none: BF16 */
    size_t n_precisions;
    int64_t batch;       /* passes in a step: 1, or 2 as with guidance; 0: 2 */
    int64_t text_tokens; /* of each prompt that reach the transformer; 0: 34 */
    int64_t steps;       /* 0: 20 */
    int64_t repeat;      /* runs of each phase, after one to warm up if there are several; 0: 3 */
    unsigned phases;     /* INK_BENCH_..., 0: all; without effect on a whole picture */
    int picture;         /* draw whole pictures, phase by phase, as ink_generate does */
    int64_t vram_budget; /* of a whole picture, as in ink_request */
    int64_t threads;     /* as in ink_session_options */
    const char *cpu, *backend;
    ink_progress_fn progress; /* may be NULL. Return non-zero to cancel. LOAD counts bytes of random weights. */
    /* Called for each case when it is complete, all sizes of a precision together. Valid during the call. */
    void (*result)(void *user, const ink_bench_case *result);
    void *user; /* of both */
} ink_bench_options;

/*
 * Times the networks with random weights of the real sizes, made in memory in the form of each precision: no file is needed.
 * Weights of one phase are held at a time, as when a picture is drawn.
 * Errors: ARGUMENT, MEMORY (a case that does not fit this machine; cases before it have been reported), CANCELLED.
 */
INK_API ink_status ink_bench(const ink_bench_options *options, ink_error *error);

/* ---- debugging -------------------------------------------------------------------------------------------------- */

typedef struct ink_env_var {
    const char *name, *values, *help;
} ink_env_var;

/* The environment variables that the library reads, ended by a null name. Static storage. */
INK_API const ink_env_var *ink_env_vars(void);

#ifdef __cplusplus
}
#endif

#endif
