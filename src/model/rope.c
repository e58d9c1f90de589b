/* rope.c - angles: f32 position times f32 frequency, as the references compute them. */
#include "model/rope.h"

#include <math.h>

float ink_rope_frequency(double theta, int64_t j, int64_t dim) {
    float exponent = (float)(2 * j) / (float)dim;
    return 1.0f / (float)pow(theta, (double)exponent);
}

static void set_angle(ink_tensor cos_table, ink_tensor sin_table, int64_t row, int64_t col, int64_t position, float frequency) {
    float angle = (float)position * frequency;
    ink_row(cos_table, row)[col] = (float)cos((double)angle);
    ink_row(sin_table, row)[col] = (float)sin((double)angle);
}

void ink_rope_text(ink_tensor cos, ink_tensor sin, double theta) {
    for (int64_t j = 0; j < cos.cols; j++) {
        float frequency = ink_rope_frequency(theta, j, 2 * cos.cols);
        for (int64_t i = 0; i < cos.rows; i++) set_angle(cos, sin, i, j, i, frequency);
    }
}

void ink_rope_joint(ink_tensor cos, ink_tensor sin, const int64_t axes[3], const int64_t *n_txt, int n_sides, int64_t height,
                    int64_t width) {
    /* Rows and columns are centred, the odd one on the negative side; text begins after the larger half extent, on all axes. */
    int64_t first_text = height / 2 > width / 2 ? height / 2 : width / 2;
    int64_t col = 0;
    for (int axis = 0; axis < 3; axis++)
        for (int64_t j = 0; j < axes[axis] / 2; j++, col++) {
            float frequency = ink_rope_frequency(10000.0, j, axes[axis]);
            int64_t row = 0;
            for (int side = 0; side < n_sides; side++)
                for (int64_t i = 0; i < n_txt[side]; i++) set_angle(cos, sin, row++, col, first_text + i, frequency);
            for (int side = 0; side < n_sides; side++)
                for (int64_t y = 0; y < height; y++)
                    for (int64_t x = 0; x < width; x++) {
                        const int64_t position[3] = {0, y - (height - height / 2), x - (width - width / 2)};
                        set_angle(cos, sin, row++, col, position[axis], frequency);
                    }
        }
}
