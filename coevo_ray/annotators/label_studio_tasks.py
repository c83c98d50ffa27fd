"""Label Studio's formats: labelling configs of class lists, tasks of questions, labels of annotated tasks."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from coevo_ray.annotators.label_set import LabelSet
from coevo_ray.annotators.sample_files import SHOWN
from coevo_ray.core.json import JsonObject
from coevo_ray.pool.modality import by_modality

CONTROL, SAMPLE = "label", "sample"
# More buttons than these do not fit beside an image; then a searchable list is shown.
_MOST_BUTTONS = 30


@dataclass(frozen=True)
class Given:
    """One person's annotation of one task.

    Attributes:
        task: Label Studio's number of the task.
        row_id, key: as the task states them.
        annotator: name of the person.
        order: orders a person's annotations of one row; the largest counts.
        choice: the class as it is shown; None where the person skipped the task or chose nothing.
    """

    task: int
    row_id: int
    key: str
    annotator: str
    order: tuple[str, int]
    choice: str | None


def labelling_config(label_set: LabelSet, modality: str) -> str:
    """The labelling interface as XML: the sample, and one choice among the classes.

    Raises:
        UsageError: it does not support samples of this modality.
    """
    shown = by_modality(SHOWN, modality, "the label_studio annotator")
    view = ET.Element("View")
    if shown.explained:
        ET.SubElement(view, "Header", value=shown.explained, size="4")
    sample = ET.SubElement(view, shown.tag, name=SAMPLE, value="$key" if shown.by_key else f"${modality}")
    if shown.tag == "Text":
        sample.set("valueType", "text")  # where a server is set to be secure, its default fetches texts as addresses
    choices = ET.SubElement(view, "Choices", name=CONTROL, toName=SAMPLE, choice="single", required="true")
    choices.set(*(("layout", "select") if label_set.classes > _MOST_BUTTONS else ("showInline", "true")))
    for name in label_set.all_shown():
        ET.SubElement(choices, "Choice", value=name)
    return ET.tostring(view, encoding="unicode")


def classes_of(config: str) -> list[str] | None:
    """The classes of a labelling config; None without our choices."""
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
) -> JsonObject:
    """A task with the model's prediction.

    Args:
        row_id: identifies the task.
        key: the user's own id.
        sample: name and value of the image or text; empty where people see the key alone.
        round: the gate's.
        gain: expected gain of the label.
        predicted: the model's class as it is shown; empty for none.
        confidence: its probability.
    """
    data: JsonObject = {"row_id": row_id, "key": key, **sample, "round": round, "gain": gain}
    if not predicted:
        return {"data": data}
    choice = {"from_name": CONTROL, "to_name": SAMPLE, "type": "choices", "value": {"choices": [predicted]}}
    prediction = {"model_version": f"coevo-ray round {round}", "score": confidence, "result": [choice]}
    return {"data": {**data, "predicted": predicted, "confidence": confidence}, "predictions": [prediction]}


def row_of(task: Any) -> tuple[int, str] | None:
    """row_id and key of a task; None where coevo-ray did not make it."""
    data = _field(task, "data")
    row_id, key = _field(data, "row_id"), _field(data, "key")
    return (row_id, key) if isinstance(row_id, int) and row_id >= 0 and isinstance(key, str) else None


def labels_given(tasks: Iterable[Any], person: Callable[[Any], str]) -> Iterable[Given]:
    """People's annotations of our tasks; predictions are ignored in any form.

    Args:
        tasks: objects of the SDK, or of an exported JSON.
        person: an annotation's `completed_by` (an id or an object) -> the person's name.
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
    """The author of an annotation: the e-mail address where it is known.

    Args:
        completed_by: an id, or an object with id and email.
        emails: returns id -> address of the users; called for ids only.
    """
    email = _field(completed_by, "email")
    if email:
        return str(email)
    number = completed_by if isinstance(completed_by, int) else _field(completed_by, "id")
    if number is None:
        return "label_studio"
    return emails().get(int(number)) or f"user {number}"
