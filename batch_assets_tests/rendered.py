"""The body of a request, made in Python and apart from the code that writes request files."""

from collections.abc import Mapping
from typing import Any

from batch_assets.batching.planning.task import Task


def message_of(task: Task, article: Mapping[str, Any]) -> str:
    """The text of the user's message about an article."""
    parts = [str(article.get(text) or "") if is_field else text for text, is_field in task.template_parts]
    return "".join(parts)


def rendered(
    task: Task, article: Mapping[str, Any], options: Mapping[str, Any] | None = None, image: str | None = None
) -> dict[str, Any]:
    """image: a URL."""
    text = message_of(task, article)
    parameters = task.parameters(options or {})
    detail = {} if task.image_detail is None else {"detail": task.image_detail}
    if task.endpoint == "/v1/embeddings":
        return {"model": task.model, "input": text, **parameters}
    if task.endpoint == "/v1/responses":
        content: Any = text
        if image is not None:
            picture = {"type": "input_image", "image_url": image, **detail}
            content = [{"type": "input_text", "text": text}, picture]
        asked = [{"role": "user", "content": content}]
        return {"model": task.model, "instructions": task.system_prompt, "input": asked, **parameters}
    content = text
    if image is not None:
        content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": image, **detail}}]
    messages = [{"role": "system", "content": task.system_prompt}, {"role": "user", "content": content}]
    return {"model": task.model, "messages": messages, **parameters}
