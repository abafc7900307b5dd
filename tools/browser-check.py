#!/usr/bin/env python3
"""Opens pages in headless Chromium and tells what it complains of and what it asks for.

usage: browser-check.py CHROMIUM PAGE... [--screenshots=FOLDER]

Prints `PAGE: clean`, or one line per console message, exception, log entry or request, and fails if there was any.
Only Python's standard library is needed: the browser is spoken to through its debugging pipe.
"""
import base64
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

WIDTH = 1280
HEIGHT_MAX = 1950
TIMEOUT_S = 120


class Browser:
    """A Chromium that reaches nobody: every name resolves to nothing."""

    def __init__(self, program, profile):
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()

        # Chromium reads commands from descriptor 3 and writes to 4.
        def wire():
            a, b = os.dup(to_browser), os.dup(from_browser)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
             "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}", "--hide-scrollbars",
             "--remote-debugging-pipe", "about:blank"],
            preexec_fn=wire, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.buffer = b""
        self.number = 0
        self.events = []

    def receive(self):
        while b"\0" not in self.buffer:
            piece = os.read(self.read_end, 1 << 16)
            if not piece:
                sys.exit("Chromium ended")
            self.buffer += piece
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, session=None, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def wait(self, method):
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.receive())


def complaint(event, page):
    """What an event says that a clean page would not cause."""
    method, parameters = event.get("method"), event.get("params", {})
    if method == "Network.requestWillBeSent":
        url = parameters["request"]["url"]
        return None if url == page or url.startswith("data:") else f"request: {url}"
    if method == "Runtime.consoleAPICalled":
        return "console: " + " ".join(str(argument.get("value")) for argument in parameters["args"])
    if method == "Runtime.exceptionThrown":
        details = parameters["exceptionDetails"]
        return f"exception: {details.get('exception', {}).get('value', details['text'])}"
    if method == "Log.entryAdded":
        return f"log: {parameters['entry']['text']}"
    return None


def screenshots(browser, session, folder, name):
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.call("Emulation.setEmulatedMedia", session, features=features)
        size = browser.call("Page.getLayoutMetrics", session)["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": min(size["height"], HEIGHT_MAX), "scale": 1}
        picture = browser.call("Page.captureScreenshot", session, format="png", clip=clip, captureBeyondViewport=True)
        (folder / f"{name}-{scheme}.png").write_bytes(base64.b64decode(picture["data"]))


def check(browser, page, folder):
    browser.events.clear()
    url = page.resolve().as_uri()
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Network", "Page", "Runtime", "Log"):
        browser.call(f"{domain}.enable", session)
    browser.call("Emulation.setDeviceMetricsOverride", session, width=WIDTH, height=900, deviceScaleFactor=1, mobile=False)
    browser.events.clear()
    browser.call("Page.navigate", session, url=url)
    browser.wait("Page.loadEventFired")
    if folder:
        screenshots(browser, session, folder, page.stem)
    # A last call, so that all that was told before it has been read.
    browser.call("Runtime.evaluate", session, expression="1")
    complaints = [text for event in browser.events if (text := complaint(event, url))]
    browser.call("Target.closeTarget", targetId=target)
    for text in complaints:
        print(f"{page.name}: {text}")
    if not complaints:
        print(f"{page.name}: clean", flush=True)
    return not complaints


def main():
    # A browser that hangs ends with us, for its pipe is closed then.
    signal.alarm(TIMEOUT_S)
    program, *rest = sys.argv[1:]
    flag = "--screenshots="
    folders = [pathlib.Path(word.removeprefix(flag)) for word in rest if word.startswith(flag)]
    pages = [pathlib.Path(word) for word in rest if not word.startswith(flag)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        try:
            clean = [check(browser, page, folders[0] if folders else None) for page in pages]
        finally:
            browser.process.kill()
            browser.process.wait()
    sys.exit(not all(clean))


main()
