"""Noisy Student as users run it: a teacher from a folder, resuming, wrong input, and the recipe of
stages."""

import json
import shutil

import pytest
import torch

import recipes
from datamodules.sources.digits import Digits
from methods.semi_supervised.noisy_student import NoisyStudent
from tests.commands.test_resume import interrupt_at, same, weights
from tests.support.command import QUIET, roux, train

SHORT = (
    "data.labels_per_class=4",
    "data.batch_size=8",
    "trainer.max_steps=6",
    "trainer.val_every=3",
)
STUDENT = (*SHORT, "semi_supervised=noisy_student", "methods.noisy_student.threshold=0")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    train(folder, *SHORT, "averaging=ema")
    return folder


def test_the_table_is_what_the_teacher_reports(teacher, place):
    train(place / "student", *STUDENT, f"methods.noisy_student.teacher={teacher}")
    kept = weights(place / "student")["state_dict"]["method_modules.noisy_student.of_label"]
    assert kept.shape[1] == 10 and bool(
        weights(place / "student")["state_dict"]["method_modules.noisy_student.spoken"]
    )
    train_set = Digits().load(None).train
    pictures = train_set.fetch(torch.arange(len(train_set)))
    said = recipes.load(teacher).predict(list(pictures), "probabilities")
    # rows are those of the pool, the training samples without the validation part: each is one of
    # the teacher's answers
    distance = torch.cdist(kept, said, compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    assert float(distance.max()) < 1e-5 and len(kept) < len(said)


@pytest.mark.parametrize("part", ["bitfit", "lora"])
def test_a_teacher_of_few_trained_weights_is_asked(part, place):
    # methods of this family try by gradients what they have built; the teacher is built where none
    # are wanted
    train(place / "teacher", *SHORT, f"peft={part}")
    train(place / "student", *STUDENT, f"methods.noisy_student.teacher={place}/teacher")
    with torch.inference_mode():
        assert recipes.load(place / "teacher").predict(torch.zeros(1, 8, 8)) is not None


@pytest.mark.parametrize(("setting", "factor"), [("one", 1.0), ("ratio", 3.0), ("share", 0.75)])
def test_the_term_is_the_cross_entropy_to_the_teachers_words(setting, factor, place, monkeypatch):
    seen = []
    terms = NoisyStudent.terms

    def watched(self, step, recipe):
        terms(self, step, recipe)
        term, index = step.terms["noisy_student"], step.streams["unlabeled"].index
        q = recipe.method_modules["noisy_student"]["label"][index]
        expected = -(q * step.logits("unlabeled/strong", "label").log_softmax(1)).sum(1)
        seen.append((term.weight, float((term.values - expected).abs().max())))

    monkeypatch.setattr(NoisyStudent, "terms", watched)
    train(
        place / "run",
        *STUDENT,
        "data.unlabeled_ratio=3",
        f"methods.noisy_student.unlabeled_weight={setting}",
    )
    assert len(seen) == 6
    assert all(weight == pytest.approx(factor) and distance < 1e-5 for weight, distance in seen)


def test_a_run_that_continues_does_not_ask_the_teacher_again(teacher, place, monkeypatch):
    shutil.copytree(teacher, place / "teacher")
    command = (*STUDENT, "checkpoint.every_n_steps=1", "trainer.log_every=1")
    command += (f"methods.noisy_student.teacher={place}/teacher",)
    train(place / "whole", *command)
    with monkeypatch.context() as patch:
        interrupt_at(4, patch)
        assert roux(*QUIET, *command, f"run_dir={place}/cut").code == 130
    shutil.rmtree(place / "teacher")
    train(place / "cut", *command, "resume=auto")
    assert same(weights(place / "cut")["state_dict"], weights(place / "whole")["state_dict"])


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        (
            "methods.noisy_student.teacher=nowhere",
            "methods.noisy_student.teacher: there is no 'nowhere'",
        ),
        (
            "methods.noisy_student.threshold=1",
            "methods.noisy_student.threshold=1: none of the teacher's predictions",
        ),
        (
            "methods.noisy_student.task=labl",
            "methods.noisy_student.task=labl: did you mean 'label'",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(setting, line, place):
    outcome = roux(*QUIET, *STUDENT, setting, "run_dir=run")
    assert (
        outcome.code == 2
        and len(outcome.lines) == 1
        and outcome.lines[0].startswith(f"error: {line}")
    ), outcome.err
    assert not (place / "run").exists()


def test_a_teacher_of_other_classes_is_refused(place):
    train(place / "parity", *SHORT, "data=digits_parity", "data.source.tasks=[parity]")
    outcome = roux(*QUIET, *STUDENT, f"methods.noisy_student.teacher={place}/parity", "run_dir=run")
    assert outcome.code == 2 and "the classes of task 'label' in" in outcome.lines[0]


def test_the_recipe_continues_in_its_second_stage(place, monkeypatch):
    own = "stages.student=['semi_supervised=noisy_student','methods.noisy_student.threshold=0',"
    own += "'methods.noisy_student.teacher=\\'{teacher}\\'']"
    command = ("recipe=noisy_student", *SHORT, own, "checkpoint.every_n_steps=1")
    train(place / "whole", *command)
    with monkeypatch.context() as patch:
        terms = NoisyStudent.terms

        def interrupted(self, step, recipe):
            if step.progress.step == 3:
                raise KeyboardInterrupt
            terms(self, step, recipe)

        patch.setattr(NoisyStudent, "terms", interrupted)
        assert roux(*QUIET, *command, f"run_dir={place}/cut").code == 130
    assert list(json.loads((place / "cut" / "stages.json").read_text())) == ["teacher"]
    train(place / "cut", *command, "resume=auto")
    for stage in ("teacher", "student"):
        a, b = (weights(place / run / stage)["state_dict"] for run in ("whole", "cut"))
        assert same(a, b)


def test_a_stage_that_is_not_there(place):
    own = "stages.student=['semi_supervised=noisy_student','methods.noisy_student.teacher=\\'{teachr}\\'']"
    outcome = roux(*QUIET, "recipe=noisy_student", own, "run_dir=run")
    assert outcome.code == 2
    assert outcome.lines[0].startswith(
        "error: stages.student: methods.noisy_student.teacher={teachr} names no stage"
    )
    assert "did you mean 'teacher'" in outcome.lines[0]


def test_the_student_of_a_round_is_the_teacher_of_the_next(place):
    command = ("recipe=noisy_student", *SHORT, "methods.noisy_student.threshold=0")
    outcome = train(place / "run", *command, "stages.student.repeat.times=2")
    assert outcome.code == 0
    done = json.loads((place / "run" / "stages.json").read_text())
    assert list(done) == ["teacher", "student_1", "student_2"]
    for student, of in (("student_1", "teacher"), ("student_2", "student_1")):
        config = (place / "run" / student / "config.yaml").read_text()
        assert f"teacher: {place / 'run' / of}/checkpoints/last.ckpt" in config
        table = weights(place / "run" / student)["state_dict"]
        kept = table["method_modules.noisy_student.of_label"]
        train_set = Digits().load(None).train
        pictures = list(train_set.fetch(torch.arange(len(train_set))))
        said = recipes.load(place / "run" / of).predict(pictures, "probabilities")
        nearest = torch.cdist(kept, said, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        assert float(nearest.max()) < 1e-5
