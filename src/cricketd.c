/* SPDX-License-Identifier: Apache-2.0 */
#include "log.h"

int main(void)
{
    log_info("op=start");
    return 0;
}
