"""What the server itself allows, whatever the page in front of it may check."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Request

from tests.conftest import EXAMPLES


@pytest.fixture
def upload(page: Page) -> Request:
    """What a browser sends when a visitor brings a photo."""
    with page.expect_request(lambda request: request.method == "PUT") as caught:
        page.locator("input[type=file]").first.set_input_files(EXAMPLES / "cat.jpg")
    return caught.value


def answer(upload: Request, size: int, **changed: str) -> int:
    """Status that the server answers to an upload of some size, before anything of it but its headers is sent."""
    address = urlsplit(upload.url)
    headers = {name: value for name, value in upload.all_headers().items() if not name.startswith(":")}
    connection = http.client.HTTPConnection(address.netloc, timeout=20)
    connection.request("PUT", address.path, headers=headers | {"content-length": str(size)} | changed)
    return connection.getresponse().status


def test_a_file_past_the_limit_is_refused(upload: Request) -> None:
    assert answer(upload, 20 * 2**20 + 1) == 413


def test_an_upload_from_a_page_of_somebody_else_is_refused(upload: Request) -> None:
    assert answer(upload, 1000, **{"x-xsrftoken": "made-up"}) == 403


def test_an_upload_of_the_pages_own_is_taken(upload: Request) -> None:
    """By the same road, or the others could be refused for anything."""
    body = b'--X\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\nphoto\r\n--X--\r\n'
    address = urlsplit(upload.url)
    headers = {name: value for name, value in upload.all_headers().items() if not name.startswith(":")}
    form = {"content-type": "multipart/form-data; boundary=X", "content-length": str(len(body))}
    connection = http.client.HTTPConnection(address.netloc, timeout=20)
    connection.request("PUT", address.path, body, headers | form)
    assert connection.getresponse().status == 204
