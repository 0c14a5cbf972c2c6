"""Titles and answers that would act, if they were taken for Markdown, HTML or instructions to a terminal."""

BAIT = "/bait-for-the-browser"  # a path on the UI's own host: a request for it is one that a text has made
TEXTS = [
    f"![image]({BAIT}/image?query=mutation)",
    f"[![linked]({BAIT}/inner)]({BAIT}/outer)",
    f"![reference][1]\n\n[1]: {BAIT}/reference",
    "[script](javascript:alert(1))",
    f"[link]({BAIT}/link) <{BAIT}/angle> <https://bait.example/autolink>",
    "https://bait.example/bare www.bait.example bait@bait.example",
    f"<img src={BAIT}/img onerror=alert(1)>",
    f'<script src="{BAIT}/script"></script><script>fetch("{BAIT}/fetch")</script>',
    f'<iframe src="{BAIT}/iframe"></iframe><object data="{BAIT}/object"></object>',
    f"<style>@import '{BAIT}/style'; * {{ display: none }}</style><link rel=stylesheet href={BAIT}/sheet>",
    f"<a href={BAIT}/raw>raw</a><svg onload=alert(1)><use href={BAIT}/use></svg>",
    f"&lt;img src={BAIT}/entity&gt; &#60;img src={BAIT}/number&#62;",
    f"| a | b |\n|---|---|\n| ![cell]({BAIT}/cell) | x |",
    f"```html\n<img src={BAIT}/fence>\n``` ` `` ```",
    f"note[^1]\n\n[^1]: ![foot]({BAIT}/foot)",
    f"# heading\n\n> ![quote]({BAIT}/quote)\n\n- [ ] task\n\n---",
    '{"json": [1, 2]}',
    "/etc/passwd",
]
# clear screen, window title, clipboard; C1 codes; NUL; a turn to the right-to-left
ESCAPES = (
    "\x1b[2J\x1b[31m\x1b]0;title\x07\x1b]52;c;YmFpdA==\x07\x9b2J\x9d0;x\x9c\x00\x08\x7f"
    "\u202egnp.exe\u2066\ufeff\U000e0041"
)
MARKUP = [
    "[/b] closed",
    "[video] the opening",
    "[link=https://bait.example]x[/link]",
    ":smile: [red]",
    "[/]",
    "[@click=x]y",
]
