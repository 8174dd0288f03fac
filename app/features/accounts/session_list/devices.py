"""Devices in a few words, from what a client calls itself.

That is whatever the client likes to send: it helps a person to recognise it, and proves nothing.
"""

import re

# The first that is found counts: browsers call themselves what others are called, too.
BROWSERS = (
    (r"Edg(e|A|iOS)?/", "Edge"),
    (r"(OPR|Opera)/", "Opera"),
    (r"SamsungBrowser/", "Samsung Internet"),
    (r"(Firefox|FxiOS)/", "Firefox"),
    (r"(Chrome|CriOS|Chromium|HeadlessChrome)/", "Chrome"),
    (r"Version/\S+ (Mobile/\S+ )?Safari/", "Safari"),
)
SYSTEMS = (
    (r"iPhone|iPod", "an iPhone"),
    (r"iPad", "an iPad"),
    (r"Android", "Android"),
    (r"CrOS", "ChromeOS"),
    (r"Windows", "Windows"),
    (r"Macintosh|Mac OS X", "macOS"),
    (r"Linux|X11", "Linux"),
)
PRODUCT = re.compile(r"([A-Za-z][A-Za-z0-9._-]{0,31})(/|\s|$)")


def device(agent: str | None) -> str:
    """`Firefox on Linux`, `curl`, or that it is not known."""
    agent = agent or ""
    system = _first(SYSTEMS, agent)
    product = PRODUCT.match(agent)
    client = _first(BROWSERS, agent) or (product and product[1])
    if not client or client == "Mozilla":
        return f"A browser on {system}" if system else "Unknown device"
    return f"{client} on {system}" if system else client


def _first(kinds: tuple[tuple[str, str], ...], agent: str) -> str | None:
    return next((name for pattern, name in kinds if re.search(pattern, agent)), None)
