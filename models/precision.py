"""What is computed in which dtype when the weights are bfloat16, and why.

With float32 weights everything below is float32 or wider. "One rounding" means that an
operation reads bfloat16, works in float32 and rounds its result once.

==========================  ======================  ===============================================
operation                   dtype                   reason
==========================  ======================  ===============================================
matrix products             bfloat16, sums float32  where the time goes; the hardware's own choice
softmax of attention        float32                 inside the fused kernels
scores of the text encoder  float32                 they are not scaled down, so they are large
layer norm, modulation      float32, one rounding   statistics cancel; scale and shift are small
                                                    corrections that bfloat16 would lose
norm of queries and keys    float32, one rounding   mean of squares over the whole width
gate and residual sum       float32, one rounding   one rounding instead of two in each sum
residual stream             bfloat16                the released models were trained and run so; in
                                                    float32 the error falls by a quarter, which is
                                                    not worth twice the memory traffic
residual of text encoder    float32                 T5's activations grow large; runs once a prompt
rotary angles               float64                 positions grow without end in a stream
rotation                    float32, one rounding   cosines and sines are rounded to float32
sinusoid of the timestep    float64, one rounding   the rounding is part of the reference
time embedding              bfloat16                as the reference; its sums with the modulation
                                                    parameters are float32
keys and values in caches   bfloat16                half the memory; each was rounded once anyway
latents between passes      float32                 they are tiny, and errors here are not made
                                                    good by later passes
x0 from velocity            float64                 a difference of two nearly equal numbers at low
                                                    sigma
noise again                 float32                 drawn in float32 on every device
==========================  ======================  ===============================================

Under ``torch.autocast`` weights and the residual stream stay float32 and matrix products are
bfloat16, which is how the networks are trained.

``tests/models/test_precision.py`` measures the choices on the reference vectors: the relative
error (rms) of a pass is 0.0056, and 0.0068 with norms, modulation and residual sums in bfloat16
throughout; 0.015 is allowed.
"""
