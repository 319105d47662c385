"""Equality with installed packages: one file a package, values and, where a method has any, gradients.

    package                    version   compared
    pytorch-metric-learning    2.9.0     triplet, lifted structure, multi-similarity, proxy-anchor, memory, retrieval
    torchjd                    0.18.0    static weights, uncertainty, DWA, MGDA, PCGrad, Nash-MTL (with cvxpy, ecos)
    peft                       0.21.2    LoRA both ways, prefix tuning, prompt tuning
    balanced-loss              0.1.1     class-balanced losses, sigmoid focal loss
    imbalanced-learn           0.14.2    class counts after over- and under-sampling
    torchattacks               3.5.1     FGSM, PGD, BIM, MI-FGSM, the inner loop of TRADES
    semilearn                  0.3.2     FixMatch, FlexMatch: masks, thresholds, loss
    scipy, scikit-learn, torchvision     filters; linear probe, mutual information; focal loss

The first five come with `pip install -e '.[dev]'`, solvers with `.[oracles]`, torchattacks and semilearn with
`pip install --no-deps -r tests/oracles/requirements.txt`. A test whose package is not there is skipped and says so.

What is known to be wrong or otherwise in a package, and how it is met:

- pytorch-metric-learning: distances normalise embeddings unless told, against the papers of triplets with batch-hard
  mining and of lifted structures; `type_of_triplets="semihard"` keeps every such triplet, the paper one a pair;
  generalised lifted structure averages over anchors without positives too; `CrossBatchMemory` is the memory's term
  alone. 3.x is another interface, hence `<3`.
- torchjd: `MGDAWeighting` iterates to about 1e-3; `NashMTL` divides the matrix by its norm, so that only the direction
  can be compared, and its solver may stop far from the solution; `UW` is the form of regression for all tasks.
- balanced-loss: `binary_cross_entropy` averages over classes as well.
- peft: leaves LoRA on layers that are never called (BEiT, Swin-V2) without a gradient and a word; a fused qkv gets one
  A for all its rows (`qkv=shared`); prefixes and prompts shift the positions of the text.
- torchattacks: l2, momentum and input diversity fail on inputs that are no pictures; the model's modes are not
  restored as they were; `Square` seeds the global generator, so it is never called; targeted modes leave the label out.
- semilearn: FlexMatch's table is not gathered over ranks; its whole import needs packages that are not needed here.
"""
