"""The QR code encoder of the pages, compared with another encoder and a reader."""

import asyncio
import json

import segno
from support import browser

QR_MATRICES = """
(text) => {
  const bytes = Array.from(new TextEncoder().encode(text));
  const version = qrVersion(bytes.length);
  const codewords = qrInterleave(qrData(bytes, version), version);
  const matrices = QR_MASKS.map((_, mask) => qrMatrix(codewords, version, mask));
  return matrices.map((matrix) => matrix.map((row) => row.map(Number)));
}
"""
# The capacity of versions 1 to 10 at level M (ISO/IEC 18004, table 7). A full code has no padding.
# In padding, segno before 1.5 differs from the standard.
QR_CAPACITY = [14, 26, 42, 62, 84, 106, 122, 152, 180, 213]


@browser.needed
def test_qr_encoder_draws_every_version_and_mask_as_another_one_does(chromium, serve):
    site = serve(mail_domain="_chat.example.org")
    texts = [
        "dclogin:" + "aZ09?=&@"[: length % 8] + "x" * (length - 8 - length % 8)
        for length in QR_CAPACITY
    ]

    async def draw():
        async with browser.open_page(chromium) as page:
            await page.open(site)
            return [await page.evaluate(f"({QR_MATRICES})({json.dumps(text)})") for text in texts]

    for version, (text, drawn) in enumerate(zip(texts, asyncio.run(draw()), strict=True), 1):
        assert len(text) == QR_CAPACITY[version - 1]
        for mask, matrix in enumerate(drawn):
            other = segno.make(
                text, version=version, mask=mask, error="m", mode="byte", boost_error=False
            )
            assert matrix == [list(row) for row in other.matrix], (version, mask)


@browser.needed
def test_qr_encoder_text_of_any_length_reads_back(chromium, serve, tmp_path):
    site = serve(mail_domain="_chat.example.org")
    alphabet = "dclogin:k3@_chat.example.org?p=%41&v=1~"
    lengths = [*range(1, 213, 7), *QR_CAPACITY]

    texts = [(alphabet * 6)[:length] for length in lengths]
    codes = f"{json.dumps(texts)}.map((text) => qrImage(qrCode(text)))"

    async def draw():
        async with browser.open_page(chromium) as page:
            await page.open(site, width=390)
            await page.wait_for("document.querySelector('.code svg') !== null")
            await page.evaluate(f"document.querySelector('.code').replaceChildren(...{codes})")
            await page.screenshot(tmp_path / "codes.png")
            assert await page.evaluate("qrCode('x'.repeat(214))") is None

    asyncio.run(draw())
    assert sorted(browser.decode_qr(tmp_path / "codes.png")) == sorted(texts)
