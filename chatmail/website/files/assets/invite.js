"use strict";
// On a relay with a self-signed certificate a messenger cannot ask for an address by itself, so
// the page does: it fetches one from the relay and shows it as a link and as a QR code.

const QR_QUIET_ZONE = 4; // modules of light around the code (ISO/IEC 18004, clause 6.3.8)

// Draws rows of booleans as an SVG element.
function qrImage(matrix) {
  const namespace = "http://www.w3.org/2000/svg";
  const size = matrix.length + 2 * QR_QUIET_ZONE;
  const image = document.createElementNS(namespace, "svg");
  image.setAttribute("viewBox", `0 0 ${size} ${size}`);
  image.setAttribute("role", "img");
  image.setAttribute("aria-label", "QR code of your new address");
  image.setAttribute("shape-rendering", "crispEdges");
  let path = "";
  matrix.forEach((row, y) => row.forEach((dark, x) => {
    if (dark) path += `M${x + QR_QUIET_ZONE} ${y + QR_QUIET_ZONE}h1v1h-1z`;
  }));
  const modules = document.createElementNS(namespace, "path");
  modules.setAttribute("d", path);
  image.append(modules);
  return image;
}

async function fetchAddress() {
  const response = await fetch("/new", { method: "POST", cache: "no-store" });
  if (!response.ok) throw new Error(`the relay answered ${response.status}`);
  const address = await response.json();
  if (!/^dclogin:/i.test(address.dclogin_url)) throw new Error("the answer has no dclogin link");
  return address;
}

async function showInvitation(invitation) {
  const [code, link, status, retry] = ["code", "link", "status", "retry"]
    .map((part) => invitation.querySelector(`[data-invite=${part}]`));
  retry.hidden = true;
  status.textContent = "Asking the relay for a new address …";
  try {
    const address = await fetchAddress();
    const matrix = qrCode(address.dclogin_url);
    if (matrix) code.replaceChildren(qrImage(matrix));
    code.hidden = !matrix;
    link.href = address.dclogin_url;
    link.hidden = false;
    status.textContent = `Made for you: ${address.email}`;
  } catch (error) {
    status.textContent = `No new address could be had: ${error.message}. Please try again later.`;
    retry.hidden = false;
  }
}

for (const invitation of document.querySelectorAll("[data-invitation]")) {
  invitation.querySelector("[data-invite=retry]")
    .addEventListener("click", () => showInvitation(invitation));
  showInvitation(invitation);
}
