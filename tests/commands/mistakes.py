"""Mistakes in a command, and the one line that answers each."""

TEXT = "data=text_file"
FILE = "data.source.train_file"
TWO_STEPS = "trainer.max_steps=2"

# {place}: the current folder, with the files of `test_wrong_input.files`
MISTAKES = {
    # the fifteen kinds
    "unknown recipe": (
        ["recipe=fixmtch"],
        "recipe=fixmtch: there is no recipe 'fixmtch'; did you mean 'fixmatch'?",
    ),
    "unknown method": (
        ["regularization=mixp"],
        "regularization=mixp: there is no regularization 'mixp'; did you mean 'mixup'?",
    ),
    "unknown key": (["sed=1"], "sed: unknown key; did you mean 'seed'?"),
    "key of another tool": (
        ["epochs=3"],
        "epochs: unknown key; write trainer.max_epochs=…",
    ),
    "key of another tool in a section": (
        ["trainer.num_epochs=3"],
        "trainer.num_epochs: unknown key; write trainer.max_epochs=…",
    ),
    "key without its section": (
        ["batch_size=8"],
        "batch_size: unknown key; did you mean 'data.batch_size'?",
    ),
    "usual name of a choice": (["model=resnet18"], "model: unknown key; write network.name=…"),
    "recipe that is like none": (
        ["recipe=zzz"],
        "recipe=zzz: there is no recipe 'zzz'; known: adapter_fusion, balanced_softmax, circle and 39 more",
    ),
    "optimizer of timm's that is like none": (
        ["optimizer=named", "optimizer.name=zzz"],
        "optimizer.name: there is no 'zzz'; known: adabelief, adadelta, adafactor and 99 more",
    ),
    "value that three settings take": (
        ["seed=abc"],
        "seed: got 'abc', expected a whole number between 0 and 4294967295",
    ),
    "value that a second view takes": (
        ["data.views.weak.shift=5"],
        "data.views.weak.shift: got 5, expected a number between 0 and 0.5",
    ),
    "target that is a list": (
        ["trainer._target_=[a,b]"],
        "trainer._target_: got ['a', 'b'], expected the dotted path of a class or function",
    ),
    "key under a method that is not there": (
        ["methods.mixup.alpha=2"],
        "methods.mixup.alpha: method 'mixup' is not part of this run; add regularization=mixup",
    ),
    "wrong type": (
        ["trainer.max_steps=many"],
        "trainer.max_steps: got 'many', expected a whole number at least 0",
    ),
    "out of range": (
        ["recipe=fixmatch", "methods.fixmatch.threshold=-1"],
        "methods.fixmatch.threshold: got -1, expected a number at least 0",
    ),
    "two owners of a slot": (
        ["long_tail=[balanced_softmax,logit_adjustment]"],
        "long_tail=balanced_softmax and long_tail=logit_adjustment both own the correction of the "
        "class prior, "
        "which only one method can: leave one out",
    ),
    "need unmet": (
        ["recipe=fixmatch", "data.views.strong=null"],
        "semi_supervised=fixmatch needs the view 'strong' of the unlabeled stream, data=digits "
        "makes raw, weak: "
        "give it a data.views.strong",
    ),
    "unreadable data folder": (
        ["data=image_folder", "data.root=nowhere"],
        "data.root=nowhere does not exist; give the folder that contains the set, or one to "
        "download it to",
    ),
    "empty csv": (
        [TEXT, f"{FILE}=empty.csv"],
        "empty.csv: the file is empty; expected texts with labels",
    ),
    "labels missing from a class": (
        ["data=image_folder", "data.root=gap"],
        "data: no training sample of class 'mouse' of task 'label'",
    ),
    "one class only": (
        [TEXT, f"{FILE}=one_class.csv"],
        "one_class.csv: every label is 'a'; expected two or more classes",
    ),
    "text with a method for images": (
        ["data=docstrings", "regularization=cutmix"],
        "regularization=cutmix works on image data, but data=docstrings is text: leave one out",
    ),
    "output folder not writable": (
        ["run_dir=file/run"],
        "run_dir: 'file/run' cannot be a folder: '{place}/file' is a file",
    ),
    "resume from no checkpoint": (
        ["resume=false.ckpt"],
        "resume: 'false.ckpt' is no checkpoint: it holds Python objects, or is damaged; expected "
        "tensors, numbers and texts alone, which are read without running code",
    ),
    # and more of them
    "resume from another file of torch": (
        ["resume=dict.ckpt"],
        "resume: 'dict.ckpt' is no checkpoint of a run: it holds no state_dict, global_step, "
        "pytorch-lightning_version, numbers; expected a .ckpt of a run of train.py",
    ),
    "resume from nothing": (
        ["resume=gone"],
        "resume: there is no 'gone'; name a run's folder or a .ckpt",
    ),
    "resume nearly auto": (["resume=aut"], "resume: there is no 'aut'; did you mean 'auto'?"),
    "resume from a folder without a run": (
        ["resume=nothing"],
        "resume: the folder 'nothing' holds no checkpoints/last.ckpt; name a run or a .ckpt",
    ),
    "a folder of the system": (
        ["run_dir=/proc/roux/run"],
        "run_dir: '/proc/roux/run' cannot be written: No such file or directory in '/proc'",
    ),
    "csv without rows": (
        [TEXT, f"{FILE}=header.csv"],
        "header.csv: no rows; expected texts with labels",
    ),
    "csv without a label": (
        [TEXT, f"{FILE}=unlabeled.csv", "data.source.unlabeled=false"],
        "unlabeled.csv:3: label missing (column 'label' is empty); expected one in every row, "
        "or data.source.unlabeled=true",
    ),
    "csv without the column": (
        [TEXT, f"{FILE}=columns.csv"],
        "columns.csv:2: no column 'text' for the text; did you mean 'txt'?",
    ),
    "no csv": ([TEXT, f"{FILE}=emty.csv"], "emty.csv: no such file; did you mean 'empty.csv'?"),
    "no csv named": ([TEXT], f"{FILE}: has no value yet; give one: {FILE}=…"),
    "pictures of one class": (
        ["data=image_folder", "data.root=single"],
        "data: task 'label' has only the class 'cat'; training needs at least two classes",
    ),
    "no folder of pictures named": (
        ["data=image_folder"],
        "data.root=null: data=image_folder needs the folder of the pictures, data.root=FOLDER",
    ),
    "a file as data folder": (
        ["data=mnist", "data.root=file"],
        "data.root=file is not a folder; give the folder that contains the set, or one to "
        "download it to",
    ),
    "more labels than there are": (
        ["data.labels_per_class=500"],
        "data.labels_per_class=500: class '8' has 113 training samples; expected at most 113",
    ),
    "too long a tail": (
        ["data.imbalance_factor=1000"],
        "data.imbalance_factor=1000 leaves no training sample of class '7'; expected at most 128, "
        "the number of samples of the head",
    ),
    "unknown optimizer": (
        ["optimizer=sdg"],
        "optimizer=sdg: there is no optimizer 'sdg'; did you mean 'sgd'?; "
        "any other of timm's: optimizer=named optimizer.name=NAME",
    ),
    "unknown optimizer of timm's": (
        ["optimizer=named", "optimizer.name=adamm"],
        "optimizer.name: there is no 'adamm'; did you mean 'adam'?",
    ),
    "unknown option of an optimizer": (
        ["optimizer=adamw", "+optimizer.options.fusd=true"],
        "optimizer.options.fusd: 'adamw' has no such argument; did you mean 'fused'?",
    ),
    "unknown scheduler": (
        ["scheduler=cosin"],
        "scheduler=cosin: there is no scheduler 'cosin'; did you mean 'cosine'?",
    ),
    "unknown logger": (
        ["logger=wndb"],
        "logger=wndb: there is no logger 'wndb'; did you mean 'wandb'?",
    ),
    "unknown logger in a list": (
        ["logger=[tensorboard,wndb]"],
        "logger=wndb: there is no logger 'wndb'; did you mean 'wandb'?",
    ),
    "key of a logger that is not there": (
        ["logger.wandb.mode=offline"],
        "logger.wandb.mode: logger 'wandb' is not part of this run; add logger=wandb",
    ),
    "wrong word": (
        ["logger=wandb", "logger.wandb.mode=offlin"],
        "logger.wandb.mode: got 'offlin', expected one of: online, offline, disabled or null; did "
        "you mean 'offline'?",
    ),
    "unknown network": (
        ["network.name=resnet5O"],
        "network.name='resnet5O': timm has no such model; did you mean 'resnet50'?",
    ),
    "no weights": (["network.checkpoint=gone.pt"], "network.checkpoint=gone.pt: no such file"),
    "unknown task": (
        ["data.source.tasks=[label,parrity]"],
        "data.source.tasks: got ['label', 'parrity'], expected a list, each one of: label, parity",
    ),
    "no task": (
        ["data.source.tasks=[]"],
        "data.source.tasks=[]: name each task once, and at least one",
    ),
    "batch not divisible": (
        ["data.batch_size=33", "trainer.devices=2"],
        "data.batch_size=33: is the batch over all 2 devices and must divide by their number; "
        "expected e.g. 32 or 34",
    ),
    "evaluation without a view": (
        ["data.views.raw=null"],
        "data.views.raw: is null, and it is what evaluation sees; expected a view (there are: "
        "strong, weak)",
    ),
    "unknown strategy": (
        ["trainer.strategy=dpp"],
        "trainer.strategy=dpp: Lightning has no such strategy; did you mean 'ddp'?",
    ),
    "a flag": (
        ["--recipe=fixmatch"],
        "--recipe=fixmatch: unrecognized arguments: --recipe=fixmatch; "
        "keys are written KEY=VALUE without dashes, see --help",
    ),
}
