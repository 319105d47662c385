"""Equality with installed packages: one file a package, values and, where a method has any,
gradients.

    package                    version   compared
    pytorch-metric-learning    2.9.0     triplet, lifted structure, multi-similarity, proxy-anchor,
    memory, retrieval torchjd                    0.18.0    static weights, uncertainty, DWA, MGDA,
    PCGrad, Nash-MTL (with cvxpy, ecos) peft                       0.21.2    LoRA both ways, prefix
    tuning, prompt tuning balanced-loss              0.1.1     class-balanced losses, sigmoid focal
    loss imbalanced-learn           0.14.2    class counts after over- and under-sampling
    adapters                   1.3.0     adapters of three kinds, LoRA, prefixes: golden tensors,
    see `golden/` torchattacks               3.5.1     FGSM, PGD, BIM, MI-FGSM, square attack, the
    inner loop of TRADES foolbox                    3.3.4     FGSM, PGD, BIM, in linf and l2,
    targeted too adversarial-robustness-…   1.20.1    FGSM, PGD, MI-FGSM, median filter
    LibMTL                     1.1.5     uncertainty, DWA, PCGrad, MGDA, GradNorm; MTAN,
    cross-stitch of equal rows; Δm semilearn                  0.3.2     FixMatch, FlexMatch: masks,
    thresholds, loss LAMDA-SSL                  1.0.2     FixMatch, pseudo-labels, Π-model, UDA,
    VAT; targets of MixMatch, ensembling scipy, scikit-learn, torchvision     filters; linear probe,
    mutual information; focal loss

The first five come with `pip install -e '.[dev]'`, solvers with `.[oracles]`, torchattacks and
those after it with `pip install --no-deps -r tests/oracles/requirements.txt`. A test whose package
is not there is skipped and says so. `adapters` needs a transformers of its own; its tensors are
kept, so those tests always run.

What is known to be wrong or otherwise in a package, and how it is met:

- pytorch-metric-learning: distances normalise embeddings by default, against the papers of
  triplets with batch-hard mining and of lifted structures; `type_of_triplets="semihard"` keeps
  every such triplet, the paper one a pair; generalised lifted structure averages over anchors
  without positives too; `CrossBatchMemory` is the memory's term alone. 3.x is another interface,
  hence `<3`.
- torchjd: `MGDAWeighting` iterates to about 1e-3; `NashMTL` divides the matrix by its norm, so that
  only the direction can be compared, and its solver may stop far from the solution; `UW` is the
  form of regression for all tasks.
- balanced-loss: `binary_cross_entropy` averages over classes as well.
- peft: leaves LoRA on layers that are never called (BEiT, Swin-V2) without a gradient and a word; a
  fused qkv gets one A for all its rows (`qkv=shared`); prefixes and prompts shift the positions of
  the text.
- adapters: Houlsby's form has the swish; prompts come behind the embeddings' norm and without
  positions, ours before both, so they are not compared.
- torchattacks: l2, momentum and input diversity fail on inputs that are no pictures; the model's
  modes are not restored as they were; `Square` seeds the global generator when it is called, so its
  inner run is, with our numbers, counts its squares from zero where AutoAttack and we begin at one,
  and shares one place among all pictures, leaving out the last row and column; targeted modes leave
  the label out.
- foolbox: its momentum sums signs, not gradients divided by their l1 norm.
- adversarial-robustness-toolbox: l2 iterates are clipped to the box and then to the ball; the
  median filter in torch differs from its own in arrays.
- LibMTL: cross-stitch has one vector a junction for all columns and leaves the last stage out; MGDA
  applies its weights to the normalised gradients, and finds them by a search that stops early;
  PCGrad projects tasks on themselves too; MTAN's f is a residual block, for which ours is put in.
- LAMDA-SSL: soft targets are rounded down to integers, so that the losses of UDA, ICT and MixMatch
  are zero as they are published, and mean teacher has no gradient; ICT has cross-entropy, MixMatch
  no max(λ, 1-λ), temporal ensembling averages logits and takes their softmax again.
- semilearn: FlexMatch's table is not gathered over ranks; its whole import needs packages that are
  not needed here.
"""
