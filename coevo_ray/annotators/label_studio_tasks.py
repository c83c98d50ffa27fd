"""Label Studio's words: the labelling config of a class list, tasks of questions, labels of annotated tasks."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from coevo_ray.annotators.label_set import LabelSet

CONTROL, SAMPLE = "label", "sample"
# More buttons than these do not fit beside an image: then there is a list to search in.
_MOST_BUTTONS = 30


@dataclass(frozen=True)
class Given:
    """What one person said of one task.

    Attributes:
        task: Label Studio's number of the task.
        row_id: as the task says.
        key: as the task says.
        annotator: who.
        order: orders what one person said of one row; the largest counts.
        choice: the class as it is shown; None where the person skipped the task or chose nothing.
    """

    task: int
    row_id: int
    key: str
    annotator: str
    order: tuple[str, int]
    choice: str | None


def labelling_config(label_set: LabelSet, modality: Literal["image", "text"]) -> str:
    """XML with the sample and one choice of the classes."""
    view = ET.Element("View")
    ET.SubElement(view, "Image" if modality == "image" else "Text", name=SAMPLE, value=f"${modality}")
    choices = ET.SubElement(view, "Choices", name=CONTROL, toName=SAMPLE, choice="single", required="true")
    choices.set(*(("layout", "select") if label_set.classes > _MOST_BUTTONS else ("showInline", "true")))
    for name in label_set.all_shown():
        ET.SubElement(choices, "Choice", value=name)
    return ET.tostring(view, encoding="unicode")


def classes_of(config: str) -> list[str] | None:
    """The choices of a labelling config; None where it has none that are ours."""
    try:
        root = ET.fromstring(config)
    except ET.ParseError:
        return None
    for choices in root.iter("Choices"):
        if choices.get("name") == CONTROL:
            return [choice.get("value", "") for choice in choices.iter("Choice")]
    return None


def make_task(
    row_id: int, key: str, sample: dict[str, str], round: int, gain: float, predicted: str, confidence: float
) -> dict[str, Any]:
    """A task with the model's prediction.

    Args:
        row_id: of the pool; the task is found by it.
        key: the user's own id.
        sample: name and value of the image or text.
        round: the gate's.
        gain: expected gain of the label.
        predicted: the model's class as it is shown; empty for none.
        confidence: its probability.
    """
    data: dict[str, Any] = {"row_id": row_id, "key": key, **sample, "round": round, "gain": gain}
    if not predicted:
        return {"data": data}
    choice = {"from_name": CONTROL, "to_name": SAMPLE, "type": "choices", "value": {"choices": [predicted]}}
    prediction = {"model_version": f"coevo-ray round {round}", "score": confidence, "result": [choice]}
    return {"data": {**data, "predicted": predicted, "confidence": confidence}, "predictions": [prediction]}


def row_of(task: Any) -> tuple[int, str] | None:
    """row_id and key of a task; None where it is somebody else's."""
    data = _field(task, "data")
    row_id, key = _field(data, "row_id"), _field(data, "key")
    return (row_id, key) if isinstance(row_id, int) and row_id >= 0 and isinstance(key, str) else None


def labels_given(tasks: Iterable[Any], person: Callable[[Any], str]) -> Iterable[Given]:
    """What people said of our tasks; predictions are not looked at, in whatever form they come.

    Args:
        tasks: as the SDK or an exported JSON gives them.
        person: the name of an annotation's `completed_by`, an id or an object.
    """
    for task in tasks:
        row = row_of(task)
        if row is None:
            continue
        for annotation in _field(task, "annotations") or ():
            if isinstance(annotation, int):  # only its id was exported
                continue
            yield Given(
                int(_field(task, "id") or 0),
                *row,
                person(_field(annotation, "completed_by")),
                (str(_field(annotation, "updated_at") or ""), int(_field(annotation, "id") or 0)),
                None if _field(annotation, "was_cancelled") else _choice(_field(annotation, "result")),
            )


def _choice(result: Any) -> str | None:
    for item in result or ():
        if _field(item, "from_name") == CONTROL:
            choices = _field(_field(item, "value"), "choices") or ()
            return str(choices[0]).strip() if choices else None
    return None


def _field(item: Any, name: str) -> Any:
    """A field of an object of the SDK or of plain JSON; None where there is none."""
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)


def person_of(completed_by: Any, emails: Callable[[], Mapping[int, str]]) -> str:
    """Whom an annotation is by: the e-mail address where it is known.

    Args:
        completed_by: an id, or an object with id and email.
        emails: looks the users up; called only for ids.
    """
    email = _field(completed_by, "email")
    if email:
        return str(email)
    number = completed_by if isinstance(completed_by, int) else _field(completed_by, "id")
    if number is None:
        return "label_studio"
    return emails().get(int(number)) or f"user {number}"
